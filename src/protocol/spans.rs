//! Where the parts of a JSON text stand, for changing one part and leaving every other byte as it
//! is. Only for texts that a parser has accepted; of any other text the answer may be none, and is
//! never a panic.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

/// One member of an object: where its key and its value stand, quotes included.
pub(super) struct Member {
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
}

/// The members of the object that stands at `object` in `json`, in order.
pub(super) fn members(json: &[u8], object: Range<usize>) -> Option<Vec<Member>> {
    let mut members = Vec::new();
    let mut cursor = Cursor {
        json: json.get(..object.end)?,
        at: object.start,
    };
    cursor.skip_space();
    cursor.expect(b'{')?;
    if cursor.closes(b'}') {
        return Some(members);
    }
    loop {
        cursor.skip_space();
        let key = cursor.string()?;
        cursor.skip_space();
        cursor.expect(b':')?;
        cursor.skip_space();
        let value = cursor.value()?;
        members.push(Member { key, value });
        if !cursor.goes_on(b'}')? {
            return Some(members);
        }
    }
}

/// The elements of the array that stands at `array` in `json`, in order.
pub(super) fn elements(json: &[u8], array: Range<usize>) -> Option<Vec<Range<usize>>> {
    let mut elements = Vec::new();
    let mut cursor = Cursor {
        json: json.get(..array.end)?,
        at: array.start,
    };
    cursor.skip_space();
    cursor.expect(b'[')?;
    if cursor.closes(b']') {
        return Some(elements);
    }
    loop {
        cursor.skip_space();
        elements.push(cursor.value()?);
        if !cursor.goes_on(b']')? {
            return Some(elements);
        }
    }
}

/// The string that stands at `string` in `json`, without quotes and escapes.
pub(super) fn decode(json: &[u8], string: Range<usize>) -> Option<Cow<'_, str>> {
    let quoted = json.get(string)?;
    let inner = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inner).is_none() {
        return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice::<String>(quoted)
        .ok()
        .map(Cow::Owned)
}

struct Cursor<'a> {
    json: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Steps over `close` when nothing but white space stands before it.
    fn closes(&mut self, close: u8) -> bool {
        self.skip_space();
        self.expect(close).is_some()
    }

    /// Steps over the comma (true) or `close` (false) after a member or an element.
    fn goes_on(&mut self, close: u8) -> Option<bool> {
        if self.closes(close) {
            return Some(false);
        }
        self.expect(b',')?;
        Some(true)
    }

    fn string(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        self.expect(b'"')?;
        loop {
            self.at += memchr2(b'"', b'\\', self.json.get(self.at..)?)?;
            if self.peek()? == b'"' {
                self.at += 1;
                return Some(start..self.at);
            }
            // An escape is at least two bytes; `\u` goes on with hex digits, which end nothing.
            self.at += 2;
        }
    }

    fn value(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        match self.peek()? {
            b'"' => return self.string(),
            b'{' | b'[' => self.skip_nested()?,
            _ => {
                while let Some(byte) = self.peek()
                    && !matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')
                {
                    self.at += 1;
                }
            }
        }
        (start < self.at).then_some(start..self.at)
    }

    fn skip_nested(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}
