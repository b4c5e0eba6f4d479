//! Text waiting to be generated, and the schedule that says when it is.

/// What is generated without `generation_config`: after 120 characters, then each further 160, and
/// so on; the last repeats (ElevenLabs API reference).
const DEFAULT_SCHEDULE: [usize; 4] = [120, 160, 250, 290];

/// `try_trigger_generation` does nothing below so many characters.
const MIN_TRIGGER: usize = 50;

/// No segment is longer, in characters; a longer text is spoken as several.
const MAX_SEGMENT: usize = 1000;

/// The buffer of one socket or context.
pub(super) struct Buffer {
    text: String,
    n_chars: usize,
    schedule: Vec<usize>,
    /// Index into the schedule. A flush does not move it.
    step: usize,
}

impl Buffer {
    /// An empty schedule is the default one; entries are held to the documented 50 to 500.
    pub(super) fn new(schedule: &[usize]) -> Self {
        let schedule = match schedule {
            [] => DEFAULT_SCHEDULE.to_vec(),
            _ => schedule
                .iter()
                .map(|n_chars| *n_chars.clamp(&50, &500))
                .collect(),
        };
        Self {
            text: String::new(),
            n_chars: 0,
            schedule,
            step: 0,
        }
    }

    /// Appends `text` as it is.
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.n_chars += text.chars().count();
    }

    /// Takes what the schedule says is due: up to the last white space, so that no word is cut.
    pub(super) fn take_due(&mut self) -> Vec<String> {
        let mut due = Vec::new();
        while self.n_chars >= self.schedule[self.step] {
            let rest = self.text.split_off(end_of_last_word(&self.text));
            let text = std::mem::replace(&mut self.text, rest);
            self.n_chars = self.text.chars().count();
            if text.trim().is_empty() {
                continue;
            }
            self.step = (self.step + 1).min(self.schedule.len() - 1);
            due.extend(segments(&text));
        }
        due
    }

    /// Takes everything if it is enough for `try_trigger_generation`.
    pub(super) fn take_triggered(&mut self) -> Vec<String> {
        if self.n_chars >= MIN_TRIGGER {
            self.take_all()
        } else {
            Vec::new()
        }
    }

    /// Takes everything. White space alone makes no sound and is dropped.
    pub(super) fn take_all(&mut self) -> Vec<String> {
        self.n_chars = 0;
        segments(&std::mem::take(&mut self.text))
    }

    /// Characters waiting.
    pub(super) fn n_chars(&self) -> usize {
        self.n_chars
    }

    /// Words waiting.
    pub(super) fn n_words(&self) -> usize {
        self.text.split_whitespace().count()
    }
}

/// Where the last white space ends, or the end of the text if no word would come before it.
fn end_of_last_word(text: &str) -> usize {
    text.char_indices()
        .rev()
        .find(|(_, c)| c.is_whitespace())
        .map(|(at, c)| at + c.len_utf8())
        .filter(|end| !text[..*end].trim().is_empty() || text.trim().is_empty())
        .unwrap_or(text.len())
}

/// Cuts a long text into segments at white space; a blank one gives none.
fn segments(text: &str) -> Vec<String> {
    let mut segments = Vec::new();
    let mut rest = text;
    while !rest.trim().is_empty() {
        let limit = rest
            .char_indices()
            .nth(MAX_SEGMENT)
            .map_or(rest.len(), |(at, _)| at);
        let end = if limit == rest.len() {
            limit
        } else {
            end_of_last_word(&rest[..limit])
        };
        let (segment, after) = rest.split_at(end);
        if !segment.trim().is_empty() {
            segments.push(segment.to_owned());
        }
        rest = after;
    }
    segments
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn thresholds_are_further_characters_not_totals() {
        let mut buffer = Buffer::new(&[]);
        let mut sizes = Vec::new();
        let mut pushed = 0;
        for _ in 0..300 {
            buffer.push("abcd ");
            pushed += 5;
            for _ in buffer.take_due() {
                sizes.push(std::mem::take(&mut pushed));
            }
        }
        assert_eq!(sizes, [120, 160, 250, 290, 290, 290]);
    }

    #[test]
    fn words_are_not_cut_and_the_rest_waits() {
        let mut buffer = Buffer::new(&[50]);
        buffer.push(&"a".repeat(45));
        buffer.push(" bcdefgh");
        assert_eq!(buffer.take_due(), [format!("{} ", "a".repeat(45))]);
        assert_eq!(buffer.take_all(), ["bcdefgh"]);
    }

    #[test]
    fn a_flush_does_not_reset_the_schedule() {
        let mut buffer = Buffer::new(&[50, 100]);
        buffer.push(&"ab ".repeat(17));
        assert_eq!(buffer.take_due().len(), 1);
        buffer.push("flushed ");
        assert_eq!(buffer.take_all().len(), 1);
        buffer.push(&"ab ".repeat(20));
        assert!(buffer.take_due().is_empty());
    }

    #[test]
    fn a_trigger_needs_fifty_characters() {
        let mut buffer = Buffer::new(&[]);
        buffer.push(&"ab ".repeat(16));
        assert!(buffer.take_triggered().is_empty());
        buffer.push("cd");
        assert_eq!(buffer.take_triggered().len(), 1);
    }

    proptest! {
        #[test]
        fn nothing_spoken_is_lost_doubled_or_kept_too_long(
            texts in prop::collection::vec("[a-z ]{0,200}", 0..20),
            schedule in prop::collection::vec(0..700usize, 0..4),
        ) {
            let mut buffer = Buffer::new(&schedule);
            let mut said = Vec::new();
            for text in &texts {
                buffer.push(text);
                said.extend(buffer.take_due());
                prop_assert!(buffer.n_chars() < buffer.schedule[buffer.step]);
            }
            said.extend(buffer.take_all());
            let spaceless = |text: &str| text.replace(' ', "");
            prop_assert!(said.iter().all(|segment| segment.chars().count() <= MAX_SEGMENT));
            prop_assert_eq!(spaceless(&said.concat()), spaceless(&texts.concat()));
        }
    }
}
