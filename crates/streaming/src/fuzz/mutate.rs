//! Inputs: conversations of a corpus with some of their bytes made worse.

/// A pseudo-random sequence (splitmix64, public domain algorithm by S. Vigna): the same for the same seed,
/// for ever.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`; 0 for a bound of 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % (bound.max(1) as u64)) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Longest input.
const MAX_INPUT: usize = 64 << 10;

/// Numbers at which parsers change their minds.
const EDGES: [u32; 12] =
    [0, 1, 7, 8, 125, 126, 127, 0xffff, 0x0001_0000, 0x00ff_ffff, 0x7fff_ffff, 0xffff_ffff];

/// Pieces with a meaning to one of the parsers.
const WORDS: [&[u8]; 16] = [
    b"\r\n",
    b"\r\n\r\n",
    b"Upgrade",
    b"websocket",
    b"SPDY/3.1",
    b"v5.channel.k8s.io",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"\x80\x03\x00\x01",
    b"\x80\x03\x00\x04",
    b"\x80\x03\x00\x06\x00\x00\x00\x04",
    b"\x80\x03\x00\x09\x00\x00\x00\x08",
    b"\x82\xff",
    b"\x88\x80\x00\x00\x00\x00",
    b"streamtype",
    b"\x00\x00\x00\x01\x01\xff\xff\xff",
];

/// One of the corpus, with up to eight damages; now and then noise.
pub(super) fn input(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = match random.below(32) {
        0 => (0..random.below(600)).map(|_| random.next() as u8).collect(),
        _ => random.pick(corpus).clone(),
    };
    for _ in 0..random.below(9) {
        damage(&mut bytes, corpus, random);
    }
    bytes.truncate(MAX_INPUT);
    bytes
}

fn damage(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len());
    let end = (at + random.below(64)).min(bytes.len());
    match random.below(11) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
        2 => {
            bytes.drain(at..end);
        }
        3 => bytes.truncate(at),
        4 => {
            let piece = bytes[at..end].to_vec();
            splice(bytes, at, &piece);
        }
        // The same again, many times.
        5 => {
            let piece = bytes[at..end].to_vec().repeat(random.below(200));
            splice(bytes, at, &piece);
        }
        6 => splice(bytes, at, random.pick::<&[u8]>(&WORDS)),
        7 => {
            let other = random.pick(corpus);
            let from = random.below(other.len());
            splice(bytes, at, &other[from..]);
        }
        8 => overwrite(bytes, at, &random.pick(&EDGES).to_be_bytes()[random.below(4)..]),
        9 => overwrite(bytes, at, &(random.next() as u32).to_be_bytes()),
        _ => {
            let other = random.pick(corpus).clone();
            bytes.extend_from_slice(&other);
        }
    }
}

fn splice(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    bytes.splice(at..at, piece.iter().copied());
}

fn overwrite(bytes: &mut [u8], at: usize, piece: &[u8]) {
    for (to, from) in bytes[at..].iter_mut().zip(piece) {
        *to = *from;
    }
}
