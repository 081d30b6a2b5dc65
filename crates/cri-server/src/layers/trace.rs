//! Trace context: the `traceparent` that a client sends (W3C Trace Context, level 1).

use http::HeaderMap;

/// The trace id of a request: 32 lower-case hexadecimal digits. `None` without one or with one that the
/// standard calls invalid; then the header is ignored, as it asks.
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.splitn(4, '-');
    let [version, trace, parent, rest] = std::array::from_fn(|_| parts.next());
    let lower_hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let (version, trace, parent, rest) = (version?, trace?, parent?, rest?);
    let flags = match version {
        // The only version with nothing after the flags.
        "00" => rest,
        _ => rest.split('-').next()?,
    };
    let valid = lower_hex(version, 2)
        && version != "ff"
        && lower_hex(trace, 32)
        && lower_hex(parent, 16)
        && lower_hex(flags, 2)
        && trace.bytes().any(|b| b != b'0')
        && parent.bytes().any(|b| b != b'0');
    valid.then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn of(text: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_str(text).unwrap());
        trace_id(&headers).map(str::to_owned)
    }

    #[test]
    fn only_what_the_standard_allows_is_taken() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        for good in [
            format!("00-{trace}-00f067aa0ba902b7-01"),
            format!("01-{trace}-00f067aa0ba902b7-01-what-comes-later"),
        ] {
            assert_eq!(of(&good).as_deref(), Some(trace), "{good}");
        }
        for bad in [
            String::new(),
            "00".into(),
            format!("00-{trace}"),
            format!("00-{trace}-00f067aa0ba902b7"),
            format!("00-{trace}-00f067aa0ba902b7-01-more"),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{trace}0-00f067aa0ba902b7-01"),
            format!("00-{trace}-00f067aa0ba902b7-0x"),
        ] {
            assert_eq!(of(&bad), None, "{bad}");
        }
        assert_eq!(trace_id(&HeaderMap::new()), None);
    }
}
