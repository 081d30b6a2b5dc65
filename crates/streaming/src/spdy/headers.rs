//! Header blocks: name and value pairs, compressed with one zlib stream per direction and connection.

use super::dictionary::DICTIONARY;
use super::frame::Fault;
use bytes::{Buf as _, BufMut as _, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Most bytes of one header block, uncompressed. Stream headers of the Kubernetes protocols have about a
/// hundred; a block that inflates to more ends the connection.
pub const MAX_HEADER_BYTES: usize = 16 << 10;

/// Most headers of one block.
pub const MAX_HEADERS: usize = 64;

/// Headers of a stream: lower-case names, values as they came (several are separated by zero bytes).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, Vec<u8>)>);

impl Headers {
    /// The value of `name` (in lower case), if it is there and is text.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(n, _)| n == name)?;
        std::str::from_utf8(value).ok()
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Headers {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.iter().map(|(n, v)| (n.to_ascii_lowercase(), v.as_bytes().to_vec())).collect())
    }
}

/// Compresses the header blocks of one direction, in the order in which they are sent.
#[derive(Debug)]
pub(crate) struct Deflater(Compress);

impl Deflater {
    pub(crate) fn new() -> Result<Self, Fault> {
        let mut stream = Compress::new(Compression::default(), true);
        stream.set_dictionary(&DICTIONARY).map_err(|_| Fault::internal("zlib refuses the dictionary"))?;
        Ok(Self(stream))
    }

    pub(crate) fn block(&mut self, headers: &Headers, out: &mut BytesMut) -> Result<(), Fault> {
        let mut plain = Vec::new();
        plain.put_u32(headers.0.len() as u32);
        for (name, value) in &headers.0 {
            plain.put_u32(name.len() as u32);
            plain.put_slice(name.as_bytes());
            plain.put_u32(value.len() as u32);
            plain.put_slice(value);
        }
        let mut chunk = [0; 1024];
        let mut rest = &plain[..];
        loop {
            let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
            let status = self.0.compress(rest, &mut chunk, FlushCompress::Sync);
            let written = (self.0.total_out() - before_out) as usize;
            rest = &rest[(self.0.total_in() - before_in) as usize..];
            out.put_slice(&chunk[..written]);
            match status {
                // A chunk that is not full holds the end of the flush.
                Ok(_) if rest.is_empty() && written < chunk.len() => return Ok(()),
                Ok(Status::Ok | Status::BufError) => {}
                Ok(Status::StreamEnd) | Err(_) => return Err(Fault::internal("zlib cannot compress")),
            }
        }
    }
}

/// Inflates the header blocks of one direction, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Inflater(Decompress);

impl Inflater {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// Every fault ends the connection: later blocks depend on this one.
    pub(crate) fn block(&mut self, compressed: &[u8]) -> Result<Headers, Fault> {
        parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, mut rest: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut plain = Vec::new();
        let mut chunk = [0; 2048];
        loop {
            let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
            let status = self.0.decompress(rest, &mut chunk, FlushDecompress::Sync);
            let read = (self.0.total_in() - before_in) as usize;
            let written = (self.0.total_out() - before_out) as usize;
            rest = &rest[read..];
            if plain.len() + written > MAX_HEADER_BYTES {
                return Err(Fault::protocol("a header block inflates to more than 16 KiB"));
            }
            plain.extend_from_slice(&chunk[..written]);
            match status {
                Err(error) if error.needs_dictionary().is_some() => {
                    // Asked for by the first block; a wrong one is told from ours by its checksum.
                    let set = self.0.set_dictionary(&DICTIONARY);
                    set.map_err(|_| Fault::protocol("header compression uses another dictionary"))?;
                }
                Err(_) => return Err(Fault::protocol("a header block is not a zlib stream")),
                Ok(Status::StreamEnd) => return Err(Fault::protocol("the zlib stream of the headers ends")),
                // All is in and the chunk is not full: nothing more can come out.
                Ok(_) if rest.is_empty() && written < chunk.len() => return Ok(plain),
                Ok(_) if read == 0 && written == 0 => {
                    return Err(Fault::protocol("a header block cannot be inflated"));
                }
                Ok(_) => {}
            }
        }
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers, Fault> {
    let short = || Fault::protocol("a header block ends too early");
    let count = plain.try_get_u32().map_err(|_| short())? as usize;
    if count > MAX_HEADERS {
        return Err(Fault::protocol("a header block holds more than 64 headers"));
    }
    let mut headers = Vec::with_capacity(count);
    let field = |plain: &mut &[u8]| {
        let length = plain.try_get_u32().map_err(|_| short())? as usize;
        let (value, rest) = plain.split_at_checked(length).ok_or_else(short)?;
        *plain = rest;
        Ok(value.to_vec())
    };
    for _ in 0..count {
        let name = String::from_utf8(field(&mut plain)?)
            .map_err(|_| Fault::protocol("the name of a header is not text"))?;
        headers.push((name.to_ascii_lowercase(), field(&mut plain)?));
    }
    Ok(Headers(headers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compress(blocks: &[Headers]) -> Vec<BytesMut> {
        let mut deflater = Deflater::new().unwrap();
        let each = blocks.iter().map(|headers| {
            let mut out = BytesMut::new();
            deflater.block(headers, &mut out).unwrap();
            out
        });
        each.collect()
    }

    #[test]
    fn a_first_block_names_the_dictionary() {
        let out = compress(&[Headers::default()]);
        assert_eq!(out[0][1] & 0x20, 0x20, "FDICT");
        assert_eq!(out[0][2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn a_block_that_inflates_to_much_is_refused() {
        let bomb = Headers::from([("x", "a".repeat(MAX_HEADER_BYTES).as_str())]);
        let out = compress(&[bomb]);
        assert!(out[0].len() < 200);
        assert!(Inflater::new().block(&out[0]).unwrap_err().to_string().contains("16 KiB"));
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&b""[..], b"\0", b"not zlib at all", &[0x78, 0xbb, 1, 2, 3, 4, 5]] {
            Inflater::new().block(bytes).unwrap_err();
        }
        for plain in [&[0, 0, 0, 1][..], &[0, 0, 0, 65], &[255; 4], &[0, 0, 0, 1, 255, 255, 255, 255]] {
            parse(plain).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn blocks_come_back_as_they_were(
            blocks in prop::collection::vec(prop::collection::vec(
                ("[a-z-]{1,20}", prop::collection::vec(any::<u8>(), 0..200)), 0..20), 1..8)
        ) {
            let blocks: Vec<Headers> = blocks.into_iter().map(Headers).collect();
            let mut inflater = Inflater::new();
            for (compressed, headers) in compress(&blocks).iter().zip(&blocks) {
                prop_assert_eq!(&inflater.block(compressed).unwrap(), headers);
            }
        }

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            // Refused or not: without a panic and without growing beyond the bound.
            if let Ok(headers) = Inflater::new().block(&bytes) {
                prop_assert!(headers.0.len() <= MAX_HEADERS);
            }
            let _either = parse(&bytes);
        }
    }
}
