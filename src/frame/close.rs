//! Close codes and reasons (RFC 6455 sections 5.5.1 and 7.4).

use super::Fault;

/// A close code as it stands in a close frame.
pub type CloseCode = u16;

/// The longest close reason: a control frame's 125 bytes less the code.
const MAX_REASON_BYTES: usize = 123;

/// What a peer's close frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The code; none when the frame was empty.
    pub code: Option<CloseCode>,
    /// The reason, often empty.
    pub reason: String,
}

impl Close {
    /// Reads the unmasked payload of a close frame.
    ///
    /// # Errors
    /// A payload of one byte, a code that may not stand in a frame, a reason that is not UTF-8.
    /// 1014 passes: it is registered, though most libraries refuse to send it.
    pub fn parse(payload: &[u8]) -> Result<Self, Fault> {
        match payload {
            [] => Ok(Self {
                code: None,
                reason: String::new(),
            }),
            [_] => Err(Fault::Protocol("a close frame held half a code")),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                    return Err(Fault::Protocol(
                        "a close code that may not be sent was sent",
                    ));
                }
                let reason = std::str::from_utf8(reason).map_err(|_| Fault::Utf8)?;
                Ok(Self {
                    code: Some(code),
                    reason: reason.to_owned(),
                })
            }
        }
    }

    /// The code to pass on to the other leg. 1014 becomes 1011, since many libraries take it for a
    /// protocol error; an empty close stays empty.
    #[must_use]
    pub fn forwardable_code(&self) -> Option<CloseCode> {
        match self.code {
            Some(1014) => Some(1011),
            code => code,
        }
    }
}

/// The longest start of `reason` that fits into a close frame and ends on a character's border.
#[must_use]
pub fn cut_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(payload: &[u8], expected: Result<(Option<u16>, &str), u16>) {
        let seen = Close::parse(payload);
        match (&seen, expected) {
            (Ok(close), Ok((code, reason))) => {
                assert_eq!((close.code, close.reason.as_str()), (code, reason));
            }
            (Err(fault), Err(code)) => assert_eq!(fault.close_code(), code),
            _ => panic!("{payload:?} gave {seen:?}"),
        }
    }

    #[test]
    fn close_payloads_are_judged_by_the_rfc() {
        check(&[], Ok((None, "")));
        check(&[3], Err(1002));
        check(&1000u16.to_be_bytes(), Ok((Some(1000), "")));
        check(b"\x03\xf0bye", Ok((Some(1008), "bye")));
        check(b"\x03\xf0\xff", Err(1007));
        for code in [
            0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
        ] {
            check(&u16::to_be_bytes(code), Err(1002));
        }
        for code in [1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 4999] {
            check(&u16::to_be_bytes(code), Ok((Some(code), "")));
        }
    }

    #[test]
    fn a_reason_is_cut_on_a_character_border() {
        assert_eq!(cut_reason("short"), "short");
        assert_eq!(cut_reason(&"a".repeat(200)).len(), 123);
        assert_eq!(cut_reason(&"é".repeat(100)), "é".repeat(61));
    }
}
