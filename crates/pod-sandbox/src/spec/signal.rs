//! Signals by name, as images and the CRI write them, and by number, as the kernel wants them.

use super::SpecError;
use gantry_cri_api::v1;

/// The signal that asks a container to stop when nobody says otherwise.
pub const SIGTERM: i32 = 15;

/// First real-time signal that programs may use (signal(7), glibc).
const SIGRTMIN: i32 = 34;

/// Last real-time signal.
const SIGRTMAX: i32 = 64;

const NAMES: [(&str, i32); 36] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("RTMIN", SIGRTMIN),
    ("RTMAX", SIGRTMAX),
];

/// The signal that asks a container to stop: the request's, else the image's, else `SIGTERM`.
pub fn stop_signal(asked: i32, image: Option<&str>) -> Result<i32, SpecError> {
    let signal = v1::Signal::try_from(asked)
        .map_err(|_| SpecError::new("stop_signal", format!("{asked} is not a signal of the CRI")))?;
    match (signal, image) {
        (v1::Signal::RuntimeDefault, None | Some("")) => Ok(SIGTERM),
        (v1::Signal::RuntimeDefault, Some(text)) => parse(text),
        (signal, _) => parse(&signal.as_str_name().replace("PLUS", "+").replace("MINUS", "-")),
    }
}

/// The CRI's name for a signal number.
pub fn cri_signal(number: i32) -> v1::Signal {
    let same = |s: &v1::Signal| stop_signal((*s).into(), None) == Ok(number);
    (1..=65).filter_map(|n| v1::Signal::try_from(n).ok()).find(same).unwrap_or(v1::Signal::RuntimeDefault)
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
fn parse(text: &str) -> Result<i32, SpecError> {
    let bad = || SpecError::new("stop signal", format!("{text:.32?} is not a signal; write SIGTERM or 15"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=SIGRTMAX).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let at = name.find(['+', '-']).unwrap_or(name.len());
    let (base, offset) = name.split_at(at);
    let (_, number) = NAMES.iter().find(|(n, _)| *n == base).ok_or_else(bad)?;
    let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().map_err(|_| bad())? };
    let signal = number.checked_add(offset).ok_or_else(bad)?;
    let real_time = base.starts_with("RT") && (SIGRTMIN..=SIGRTMAX).contains(&signal);
    if offset == 0 || real_time { Ok(signal) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_every_spelling() {
        for (text, number) in
            [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-14", 50), ("SIGCLD", 17)]
        {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for bad in ["", "SIGFOO", "0", "65", "TERM+1", "RTMIN-1", "RTMAX+1", "RTMIN+99999999999"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_signal_of_the_cri_is_known_and_comes_back() {
        for number in 1..=65 {
            let signal = v1::Signal::try_from(number).unwrap();
            let kernel = stop_signal(number, Some("SIGKILL")).unwrap();
            assert_eq!(stop_signal(cri_signal(kernel).into(), None).unwrap(), kernel, "{signal:?}");
        }
        assert_eq!(stop_signal(0, Some("SIGQUIT")).unwrap(), 3);
        assert_eq!(stop_signal(0, None).unwrap(), SIGTERM);
        assert!(stop_signal(99, None).is_err());
    }
}
