//! The models: which exist, what they cost, where they stream.

/// One model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    /// Credits a character, doubled.
    pub(super) halves_per_character: u64,
    /// The longest text over HTTP, in characters.
    pub(super) max_chars: usize,
    pub(super) socket: Socket,
}

/// Where a model streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    TextToSpeech,
    /// On the dialogue sockets, with so many voices to a socket or context.
    Dialogue {
        max_voices: usize,
    },
}

const fn model(
    id: &'static str,
    name: &'static str,
    halves_per_character: u64,
    max_chars: usize,
    socket: Socket,
) -> Model {
    Model {
        id,
        name,
        halves_per_character,
        max_chars,
        socket,
    }
}

const TTS: Socket = Socket::TextToSpeech;
const SOLO: Socket = Socket::Dialogue { max_voices: 1 };
const CAST: Socket = Socket::Dialogue { max_voices: 10 };

/// All models.
pub(super) const ALL: [Model; 11] = [
    model("eleven_v4", "Eleven v4", 2, 10_000, CAST),
    model("eleven_v4_turbo", "Eleven v4 Turbo", 2, 10_000, SOLO),
    model("eleven_v3", "Eleven v3", 2, 5_000, CAST),
    model(
        "eleven_v3_conversational",
        "Eleven v3 Conversational",
        2,
        5_000,
        SOLO,
    ),
    model(
        "eleven_multilingual_v2",
        "Eleven Multilingual v2",
        2,
        10_000,
        TTS,
    ),
    model("eleven_flash_v2_5", "Eleven Flash v2.5", 1, 40_000, TTS),
    model("eleven_flash_v2", "Eleven Flash v2", 1, 30_000, TTS),
    model("eleven_turbo_v2_5", "Eleven Turbo v2.5", 1, 40_000, TTS),
    model("eleven_turbo_v2", "Eleven Turbo v2", 1, 30_000, TTS),
    model(
        "eleven_multilingual_v1",
        "Eleven Multilingual v1",
        2,
        10_000,
        TTS,
    ),
    model("eleven_monolingual_v1", "Eleven English v1", 2, 10_000, TTS),
];

/// The model of that name.
pub(super) fn find(id: &str) -> Option<&'static Model> {
    ALL.iter().find(|model| model.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v3_and_v4_stream_on_the_dialogue_sockets_alone() {
        for model in &ALL {
            let is_new = model.id.starts_with("eleven_v3") || model.id.starts_with("eleven_v4");
            assert_eq!(model.socket != TTS, is_new, "{}", model.id);
        }
    }
}
