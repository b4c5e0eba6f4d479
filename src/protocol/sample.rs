//! Arbitrary JSON for tests, written in all the ways in which the same value can be written.

use proptest::collection::vec;
use proptest::prelude::*;

/// A JSON value that, other than a parsed one, may hold a key twice.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Plain(&'static str),
    Text(String),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Whether some object in it has a key twice.
    pub(super) fn has_key_twice(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Text(_) => false,
            Self::Array(list) => list.iter().any(Self::has_key_twice),
            Self::Object(members) => {
                let mut keys: Vec<_> = members.iter().map(|(key, _)| key).collect();
                let n_keys = keys.len();
                keys.sort();
                keys.dedup();
                keys.len() < n_keys || members.iter().any(|(_, value)| value.has_key_twice())
            }
        }
    }

    /// The JSON text; `style` decides about white space and escapes, used up from the front and
    /// over again.
    pub(super) fn write(&self, style: &[u8]) -> String {
        let mut writer = Writer {
            out: String::new(),
            style,
            n_used: 0,
        };
        writer.space();
        writer.node(self);
        writer.space();
        writer.out
    }
}

struct Writer<'a> {
    out: String,
    style: &'a [u8],
    n_used: usize,
}

impl Writer<'_> {
    fn choice(&mut self) -> u8 {
        self.n_used += 1;
        if self.style.is_empty() {
            0
        } else {
            self.style[self.n_used % self.style.len()]
        }
    }

    fn space(&mut self) {
        let space = match self.choice() % 8 {
            1 => " ",
            2 => "\n",
            3 => "\t\r\n  ",
            _ => "",
        };
        self.out.push_str(space);
    }

    fn separator(&mut self, separator: char) {
        self.space();
        self.out.push(separator);
        self.space();
    }

    fn node(&mut self, node: &Node) {
        match node {
            Node::Plain(text) => self.out.push_str(text),
            Node::Text(text) => self.text(text),
            Node::Array(list) => {
                self.out.push('[');
                self.space();
                for (n, value) in list.iter().enumerate() {
                    if n > 0 {
                        self.separator(',');
                    }
                    self.node(value);
                }
                self.space();
                self.out.push(']');
            }
            Node::Object(members) => {
                self.out.push('{');
                self.space();
                for (n, (key, value)) in members.iter().enumerate() {
                    if n > 0 {
                        self.separator(',');
                    }
                    self.text(key);
                    self.separator(':');
                    self.node(value);
                }
                self.space();
                self.out.push('}');
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            let must_escape = c < ' ' || c == '"' || c == '\\';
            match self.choice() % 6 {
                0 => self.unicode_escape(c, false),
                1 => self.unicode_escape(c, true),
                _ if !must_escape => self.out.push(c),
                2 if c == '\n' => self.out.push_str("\\n"),
                _ if c == '"' || c == '\\' => {
                    self.out.push('\\');
                    self.out.push(c);
                }
                _ => self.unicode_escape(c, false),
            }
        }
        self.out.push('"');
    }

    fn unicode_escape(&mut self, c: char, is_upper: bool) {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let digits = format!("{unit:04x}");
            let digits = if is_upper {
                digits.to_uppercase()
            } else {
                digits
            };
            self.out.push_str("\\u");
            self.out.push_str(&digits);
        }
    }
}

/// Keys that mean something, in odd spellings too, and keys that do not.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(vec![
            "text", "inputs", "voices", "voice_id", "context_id", "contextId", "model_id", "flush",
            "close_context", "close_socket", "keep_alive", "voice_settings", "xi_api_key",
            "xi-api-key", "authorization", "single_use_token", "XI_Api_Key", "Authorization",
            "SINGLE_USE_TOKEN", "Text", "audio", "isFinal", "error", "message", "code",
        ])
        .prop_map(str::to_owned),
        1 => "[a-c]{0,2}",
        1 => text(),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z ]{0,12}",
        "\\PC{0,6}",
        "[\\x00-\\x20\"\\\\\u{e9}\u{3042}\u{1f600}\u{10ffff}]{0,6}",
        prop::sample::select(vec!["", " ", "Bearer tok", "a\u{301}", "\u{feff}", "alias"])
            .prop_map(str::to_owned),
    ]
}

fn plain() -> impl Strategy<Value = Node> {
    prop::sample::select(vec![
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1008",
        "-1",
        "1.5e3",
        "0.1",
        "18446744073709551615",
        "123456789012345678901234567890",
        "1E-999",
    ])
    .prop_map(Node::Plain)
}

/// Any value, at most a few levels deep.
pub(super) fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![plain(), text().prop_map(Node::Text)];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Node::Array),
            vec((key(), inner), 0..5).prop_map(Node::Object),
        ]
    })
}

/// A client's message: mostly of the right form.
pub(super) fn message() -> impl Strategy<Value = Node> {
    let string = || text().prop_map(Node::Text);
    let input = prop_oneof![
        9 => vec((prop::sample::select(vec!["text", "voice_id", "new_turn"]), string()), 0..3)
            .prop_map(|members| {
                let owned = members.into_iter().map(|(key, value)| (key.to_owned(), value));
                Node::Object(owned.collect())
            }),
        1 => node(),
    ];
    let member = prop_oneof![
        4 => string().prop_map(|value| ("text".to_owned(), value)),
        3 => vec(input, 0..4).prop_map(|list| ("inputs".to_owned(), Node::Array(list))),
        1 => vec(string(), 0..3).prop_map(|list| ("voices".to_owned(), Node::Array(list))),
        6 => (key(), prop_oneof![3 => string(), 1 => node()]),
    ];
    prop_oneof![
        19 => vec(member, 0..7).prop_map(Node::Object),
        1 => node(),
    ]
}

/// What [`Node::write`] takes as its style.
pub(super) fn style() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}
