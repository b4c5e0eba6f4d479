//! From written to spoken text: numbers become words, runs of spaces one space, Cyrillic and Greek
//! letters Latin ones. A small likeness of ElevenLabs' text normalization.

/// Some written characters and what is said for them. Either may be empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unit<'a> {
    pub(super) written: &'a str,
    pub(super) spoken: String,
}

/// Cuts `text` into units. The written parts joined are `text` itself.
pub(super) fn units(text: &str, spell_numbers: bool) -> Vec<Unit<'_>> {
    let mut units = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            c if c.is_whitespace() => run(rest, char::is_whitespace),
            '0'..='9' if spell_numbers => run(rest, |c| c.is_ascii_digit()),
            c => c.len_utf8(),
        };
        let (written, after) = rest.split_at(length);
        let spoken = match first {
            c if c.is_whitespace() => " ".to_owned(),
            '0'..='9' if spell_numbers => number(written),
            c => latin(c),
        };
        units.push(Unit { written, spoken });
        rest = after;
    }
    units
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

const ONES: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = [
    "", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
];
const SCALES: [(u64, &str); 4] = [
    (1_000_000_000, "billion"),
    (1_000_000, "million"),
    (1_000, "thousand"),
    (100, "hundred"),
];

/// English words for a run of digits; long runs and leading zeros are read digit by digit.
fn number(digits: &str) -> String {
    match digits.parse::<u64>() {
        Ok(value) if digits.len() <= 12 && (digits.len() == 1 || !digits.starts_with('0')) => {
            cardinal(value)
        }
        _ => digits
            .bytes()
            .map(|digit| ONES[usize::from(digit - b'0')])
            .collect::<Vec<_>>()
            .join(" "),
    }
}

fn cardinal(value: u64) -> String {
    for (scale, name) in SCALES {
        if value >= scale {
            let head = format!("{} {name}", cardinal(value / scale));
            return match value % scale {
                0 => head,
                rest => format!("{head} {}", cardinal(rest)),
            };
        }
    }
    match (value / 10, value % 10) {
        (0 | 1, _) => ONES[value as usize].to_owned(),
        (tens, 0) => TENS[tens as usize].to_owned(),
        (tens, ones) => format!("{}-{}", TENS[tens as usize], ONES[ones as usize]),
    }
}

const CYRILLIC: &str = "а a б b в v г g д d е e ж zh з z и i й y к k л l м m н n о o п p р r с s \
    т t у u ф f х kh ц ts ч ch ш sh щ shch ъ - ы y ь - э e ю yu я ya ё yo і i ї yi є ye ґ g";
const GREEK: &str = "α a β v γ g δ d ε e ζ z η i θ th ι i κ k λ l μ m ν n ξ x ο o π p ρ r σ s ς s \
    τ t υ y φ f χ ch ψ ps ω o";

/// Latin letters for a character of another script, where known; else the character.
fn latin(character: char) -> String {
    let table = match character {
        '\u{370}'..='\u{3ff}' => GREEK,
        '\u{400}'..='\u{4ff}' => CYRILLIC,
        _ => return character.to_string(),
    };
    let lower: String = character.to_lowercase().collect();
    let mut words = table.split_whitespace();
    while let (Some(letter), Some(latin)) = (words.next(), words.next()) {
        if letter == lower {
            // The hard and the soft sign have no sound.
            return if latin == "-" {
                String::new()
            } else {
                latin.to_owned()
            };
        }
    }
    character.to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(written: &str, spoken: &str) {
        let said: String = units(written, true)
            .into_iter()
            .map(|unit| unit.spoken)
            .collect();
        assert_eq!(said, spoken);
    }

    #[test]
    fn spells_numbers_and_collapses_spaces() {
        check("Room 12.", "Room twelve.");
        check("a  b", "a b");
        check("0 7 40 99 100", "zero seven forty ninety-nine one hundred");
        check(
            "1234567",
            "one million two hundred thirty-four thousand five hundred sixty-seven",
        );
        check("007", "zero zero seven");
        check(
            "1234567890123",
            "one two three four five six seven eight nine zero one two three",
        );
    }

    #[test]
    fn romanises() {
        check("Привет", "privet");
        check("λόγος", "lόgos");
        check("日本", "日本");
    }

    #[test]
    fn numbers_stay_when_normalization_is_off() {
        let said: String = units("Room 12", false)
            .into_iter()
            .map(|unit| unit.spoken)
            .collect();
        assert_eq!(said, "Room 12");
    }

    proptest! {
        #[test]
        fn nothing_written_is_lost(text in ".*") {
            let written: String = units(&text, true).iter().map(|unit| unit.written).collect();
            prop_assert_eq!(written, text);
        }
    }
}
