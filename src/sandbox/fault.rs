//! Faults on request: a voice id that begins with `fault-` names what shall go wrong.

use super::refusal::Refusal;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A refusal once the first message is in.
    Refuse(Refuse),
    /// A refusal of the upgrade, or of the request.
    Http(u16),
    /// No answer to anything.
    Mute,
    /// One audio frame, and then nothing more on an open socket.
    Stall,
    /// One audio frame, and then a TCP reset.
    Cut,
    /// One audio frame, and then the end of TCP without a close frame.
    Drop,
    /// One audio frame, and then a close frame with that code.
    Close(u16),
    /// A first audio frame of so many MiB.
    Oversize(u16),
    /// A first audio frame that breaks off in the middle of its JSON.
    Malformed,
    /// A binary message in place of the first audio frame.
    Binary,
    /// An audio frame with an empty `audio` before the first.
    EmptyAudio,
    /// The final frame without any audio.
    SilentFinal,
}

/// Which refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refuse {
    InvalidApiKey,
    NeedsAuthorization,
    UnknownVoice,
    InputTimeout,
    VoiceSettings,
    MaxContexts,
    Quota,
    UnusualActivity,
    TooManyRequests,
    VendorFault,
    Restart,
    UnsupportedModel,
}

const PREFIX: &str = "fault-";

/// The faults without a parameter.
const NAMED: [(&str, Fault, &str); 20] = {
    use Fault::{Binary, Cut, Drop, EmptyAudio, Malformed, Mute, Refuse as R, SilentFinal, Stall};
    use Refuse::{
        InputTimeout, InvalidApiKey, MaxContexts, NeedsAuthorization, Quota, Restart,
        TooManyRequests, UnknownVoice, UnsupportedModel, UnusualActivity, VendorFault,
        VoiceSettings,
    };
    [
        (
            "invalid-api-key",
            R(InvalidApiKey),
            "error invalid_api_key, close 1008",
        ),
        (
            "needs-authorization",
            R(NeedsAuthorization),
            "error needs_authorization, close 1008",
        ),
        (
            "voice-not-found",
            R(UnknownVoice),
            "error voice_id_does_not_exist, close 1008",
        ),
        (
            "input-timeout",
            R(InputTimeout),
            "error input_timeout_exceeded at once, close 1008",
        ),
        (
            "voice-settings",
            R(VoiceSettings),
            "error about late voice_settings, close 1008",
        ),
        (
            "max-contexts",
            R(MaxContexts),
            "error max_active_conversations, close 1008",
        ),
        ("quota", R(Quota), "error quota_exceeded, close 1008"),
        (
            "unusual-activity",
            R(UnusualActivity),
            "error detected_unusual_activity, close 1008",
        ),
        (
            "concurrency",
            R(TooManyRequests),
            "error too_many_concurrent_requests, close 1008",
        ),
        ("vendor", R(VendorFault), "an apology, close 1011"),
        ("restart", R(Restart), "error frame, close 1012"),
        (
            "unsupported-model",
            R(UnsupportedModel),
            "HTTP 400 before the upgrade",
        ),
        ("mute", Mute, "no answer to anything"),
        (
            "stall",
            Stall,
            "one audio frame, then nothing on an open socket",
        ),
        ("cut", Cut, "one audio frame, then a TCP reset"),
        (
            "drop",
            Drop,
            "one audio frame, then the end of TCP without a close frame",
        ),
        (
            "malformed",
            Malformed,
            "the first audio frame is broken JSON",
        ),
        (
            "binary",
            Binary,
            "a binary message in place of the first audio frame",
        ),
        (
            "empty-audio",
            EmptyAudio,
            "an audio frame with an empty audio before the first",
        ),
        (
            "silent-final",
            SilentFinal,
            "the final frame without any audio",
        ),
    ]
};

/// The faults with one.
const WITH_PARAMETER: [(&str, &str); 3] = [
    (
        "fault-http-STATUS",
        "the upgrade or request is refused with that HTTP status, 400 to 599",
    ),
    (
        "fault-close-CODE",
        "one audio frame, then a close with that code, 1000 to 4999",
    ),
    (
        "fault-oversize-MIB",
        "the first audio frame has so many MiB, 1 to 256; 17 without -MIB",
    ),
];

/// The voices that make something go wrong, each with what it does, for a help text.
pub fn faults() -> impl Iterator<Item = (String, &'static str)> {
    NAMED
        .iter()
        .map(|(name, _, help)| (format!("{PREFIX}{name}"), *help))
        .chain(
            WITH_PARAMETER
                .iter()
                .map(|(name, help)| ((*name).to_owned(), *help)),
        )
}

impl Fault {
    /// The fault that a voice asks for.
    pub(super) fn of_voice(voice: &str) -> Option<Self> {
        let name = voice.strip_prefix(PREFIX)?;
        if let Some((_, fault, _)) = NAMED.iter().find(|(known, ..)| *known == name) {
            return Some(*fault);
        }
        let (name, parameter) = name.split_once('-').unwrap_or((name, "17"));
        let parameter = parameter.parse().ok()?;
        match name {
            "http" if (400..600).contains(&parameter) => Some(Self::Http(parameter)),
            "close" if (1000..5000).contains(&parameter) => Some(Self::Close(parameter)),
            "oversize" if (1..=256).contains(&parameter) => Some(Self::Oversize(parameter)),
            _ => None,
        }
    }

    /// The refusal before the upgrade or in place of an HTTP answer, if this is one.
    pub(super) fn before_upgrade(self) -> Option<Refusal> {
        match self {
            Self::Http(status) => Some(Refusal::of_status(status)),
            Self::Refuse(Refuse::UnsupportedModel) => Some(Refusal::unsupported_model("eleven_v3")),
            _ => None,
        }
    }

    /// The refusal of the first message, if this is one.
    pub(super) fn refusal(self, voice: &str) -> Option<Refusal> {
        let refuse = match self {
            Self::Refuse(refuse) => refuse,
            // Where the voice comes after the upgrade.
            Self::Http(_) => return self.before_upgrade(),
            _ => return None,
        };
        Some(match refuse {
            Refuse::InvalidApiKey => Refusal::INVALID_API_KEY,
            Refuse::NeedsAuthorization => Refusal::NEEDS_AUTHORIZATION,
            Refuse::UnknownVoice => Refusal::unknown_voice(voice),
            Refuse::InputTimeout => Refusal::input_timeout(20.0),
            Refuse::VoiceSettings => Refusal::LATE_VOICE_SETTINGS,
            Refuse::MaxContexts => Refusal::MAX_CONTEXTS,
            Refuse::Quota => Refusal::QUOTA_EXCEEDED,
            Refuse::UnusualActivity => Refusal::UNUSUAL_ACTIVITY,
            Refuse::TooManyRequests => Refusal::TOO_MANY_REQUESTS,
            Refuse::VendorFault => Refusal::VENDOR_FAULT,
            Refuse::Restart => Refusal::RESTART,
            Refuse::UnsupportedModel => Refusal::unsupported_model("eleven_v3"),
        })
    }
}

/// Checks that a voice exists: all do but those that begin with `nope` or `unknown`, and faults
/// that nobody knows. The fault that the voice asks for may be a refusal too.
pub(super) fn check_voice(voice: &str) -> Result<Option<Fault>, Refusal> {
    let fault = Fault::of_voice(voice);
    let is_unknown = voice.starts_with("nope")
        || voice.starts_with("unknown")
        || (voice.starts_with(PREFIX) && fault.is_none())
        || crate::ids::VoiceId::parse(voice).is_err();
    if is_unknown {
        return Err(Refusal::unknown_voice(voice));
    }
    match fault.and_then(|fault| fault.refusal(voice)) {
        Some(refusal) => Err(refusal),
        None => Ok(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_the_help_is_known_and_a_legal_voice() {
        for (name, _) in faults() {
            let voice = name
                .replace("STATUS", "503")
                .replace("CODE", "1011")
                .replace("MIB", "20");
            assert!(Fault::of_voice(&voice).is_some(), "{voice}");
            assert!(crate::ids::VoiceId::parse(&voice).is_ok(), "{voice}");
        }
        assert_eq!(Fault::of_voice("fault-oversize"), Some(Fault::Oversize(17)));
        assert_eq!(
            Fault::of_voice("fault-close-1012"),
            Some(Fault::Close(1012))
        );
        assert_eq!(Fault::of_voice("fault-close"), None);
        assert_eq!(Fault::of_voice("AdaTone0000000000001"), None);
    }

    #[test]
    fn unknown_voices_and_faults_do_not_exist() {
        for voice in ["nope", "unknown-7", "fault-what"] {
            let error = check_voice(voice).map_err(|refusal| refusal.error);
            assert_eq!(error, Err("voice_id_does_not_exist"));
        }
        assert_eq!(check_voice("fault-stall"), Ok(Some(Fault::Stall)));
    }
}
