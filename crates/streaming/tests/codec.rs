//! The codec: golden bytes, properties, and any bytes at all. `PROPTEST_CASES=1000000` runs it long.

use bytes::{Bytes, BytesMut};
use gantry_streaming::spdy::frame::{Decoder, Encoder, Frame, MAX_CONTROL};
use gantry_streaming::spdy::headers::Headers;
use proptest::prelude::*;

fn decode_all(decoder: &mut Decoder, bytes: &[u8]) -> Vec<Frame> {
    let mut input = BytesMut::from(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next(&mut input).unwrap() {
        frames.push(frame);
    }
    assert!(input.is_empty());
    frames
}

/// The frame's bytes as the specification draws them (SPDY/3.1, 2.2 and 2.6).
#[test]
fn frames_have_the_bytes_of_the_specification() {
    let cases: [(Frame, &[u8]); 8] = [
        (Frame::Reset { id: 1, status: 5 }, &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5]),
        (Frame::Ping { id: 9 }, &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]),
        (Frame::GoAway { last: 5, status: 1 }, &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 1]),
        (
            Frame::WindowUpdate { id: 3, delta: 0x1_0000 },
            &[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 3, 0, 1, 0, 0],
        ),
        (
            Frame::Settings { initial_window: Some(65536) },
            &[0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0],
        ),
        (Frame::Settings { initial_window: None }, &[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0]),
        (
            Frame::Data { id: 1, fin: false, bytes: Bytes::from_static(b"abc") },
            &[0, 0, 0, 1, 0, 0, 0, 3, b'a', b'b', b'c'],
        ),
        (Frame::Data { id: 7, fin: true, bytes: Bytes::new() }, &[0, 0, 0, 7, 1, 0, 0, 0]),
    ];
    for (frame, bytes) in cases {
        assert_eq!(Encoder::new().unwrap().frame(&frame).unwrap(), bytes, "{frame:?}");
        assert_eq!(decode_all(&mut Decoder::default(), bytes), [frame]);
    }
    // A stream's header block begins a zlib stream with the dictionary e3c6a7c2.
    let syn = Frame::SynStream { id: 1, fin: true, headers: Headers::from([("streamType", "error")]) };
    let bytes = Encoder::new().unwrap().frame(&syn).unwrap();
    assert_eq!(bytes[..5], [0x80, 3, 0, 1, 1]);
    assert_eq!(bytes[8..18], [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[20..24], [0xe3, 0xc6, 0xa7, 0xc2]);
}

/// The header block of a stream that Go's library (which all Kubernetes clients use) sent.
#[test]
fn a_go_clients_stream_is_understood() {
    let bytes = GO_SYN_STREAM;
    let frames = decode_all(&mut Decoder::default(), bytes);
    let [Frame::SynStream { id: 1, fin: false, headers }] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(headers.get("streamtype"), Some("error"));
}

#[test]
fn unknown_control_frames_are_skipped_without_being_held() {
    let mut bytes = vec![0x80, 3, 0, 99, 0, 0, 0, 200];
    bytes.extend_from_slice(&[0; 200]);
    bytes.extend_from_slice(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]);
    assert_eq!(decode_all(&mut Decoder::default(), &bytes), [Frame::Ping { id: 9 }]);
}

fn headers() -> impl Strategy<Value = Headers> {
    prop::collection::vec(("[a-z-]{1,16}", prop::collection::vec(any::<u8>(), 0..64)), 0..6).prop_map(Headers)
}

fn frame() -> impl Strategy<Value = Frame> {
    let id = 1..0x7fff_ffff_u32;
    prop_oneof![
        (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynStream {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::Reset { id, status }),
        prop::option::of(0..0x7fff_ffff_u32).prop_map(|initial_window| Frame::Settings { initial_window }),
        any::<u32>().prop_map(|id| Frame::Ping { id }),
        (id.clone(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
        (id.clone(), 0..0x7fff_ffff_u32).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
        (id, any::<bool>(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(id, fin, bytes)| Frame::Data { id, fin, bytes: bytes.into() }),
    ]
}

/// Joins pieces of the same data frame.
fn joined(frames: Vec<Frame>, lengths: &mut dyn Iterator<Item = usize>) -> Vec<Frame> {
    let mut out: Vec<Frame> = Vec::new();
    let mut missing = 0;
    for frame in frames {
        match (frame, out.last_mut()) {
            (Frame::Data { fin, bytes, .. }, Some(Frame::Data { fin: ended, bytes: held, .. }))
                if missing > 0 =>
            {
                missing -= bytes.len();
                *held = [&held[..], &bytes[..]].concat().into();
                *ended = fin;
            }
            (frame, _) => {
                if let Frame::Data { bytes, .. } = &frame {
                    missing = lengths.next().unwrap() - bytes.len();
                }
                out.push(frame);
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn frames_come_back_however_they_are_cut(
        frames in prop::collection::vec(frame(), 1..12),
        cuts in prop::collection::vec(1..40_usize, 1..200),
    ) {
        let mut encoder = Encoder::new().unwrap();
        let bytes: Vec<u8> = frames.iter().flat_map(|f| encoder.frame(f).unwrap()).collect();
        let mut decoder = Decoder::default();
        let (mut input, mut rest, mut got) = (BytesMut::new(), &bytes[..], Vec::new());
        for cut in cuts.iter().copied().chain(std::iter::repeat(4096)) {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            input.extend_from_slice(now);
            rest = later;
            while let Some(frame) = decoder.next(&mut input).unwrap() {
                got.push(frame);
            }
            if rest.is_empty() {
                break;
            }
        }
        let mut lengths = frames.iter().filter_map(|f| match f {
            Frame::Data { bytes, .. } => Some(bytes.len()),
            _ => None,
        });
        prop_assert_eq!(joined(got, &mut lengths), frames);
    }

    #[test]
    fn any_bytes_are_answered_with_bounded_memory(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        answer(&bytes);
    }

    #[test]
    fn damaged_frames_are_answered(
        frames in prop::collection::vec(frame(), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut encoder = Encoder::new().unwrap();
        let mut bytes: Vec<u8> = frames.iter().flat_map(|f| encoder.frame(f).unwrap()).collect();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        answer(&bytes);
    }
}

/// Decodes to the first fault; what waits is never more than one control frame.
fn answer(bytes: &[u8]) {
    let mut decoder = Decoder::default();
    let mut input = BytesMut::new();
    for piece in bytes.chunks(97) {
        input.extend_from_slice(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(input.len() <= MAX_CONTROL + 8);
    }
}

const GO_SYN_STREAM: &[u8] = &[
    0x80, 0x03, 0x00, 0x01, 0x00, 0x00, 0x00, 0x29, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2, 0x62, 0x60, 0x60, 0x60, 0x04, 0xa7, 0xb3, 0x92, 0xa2, 0xd4,
    0xc4, 0x5c, 0x68, 0x51, 0xc2, 0x9a, 0x0a, 0x0a, 0x68, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff,
];
