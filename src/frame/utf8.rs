//! UTF-8 that arrives in pieces.

/// Judges text whose characters may be cut anywhere; a wrong byte is found in the piece it is in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8 {
    /// The start of a character whose rest has not come yet.
    cut: [u8; 4],
    cut_len: usize,
}

impl Utf8 {
    /// Whether the text is still valid after `piece`.
    pub(super) fn feed(&mut self, mut piece: &[u8]) -> bool {
        while self.cut_len > 0 {
            let Some((&byte, rest)) = piece.split_first() else {
                return true;
            };
            piece = rest;
            self.cut[self.cut_len] = byte;
            self.cut_len += 1;
            match std::str::from_utf8(&self.cut[..self.cut_len]) {
                Ok(_) => self.cut_len = 0,
                Err(error) if error.error_len().is_some() => return false,
                Err(_) => {}
            }
        }
        match simdutf8::compat::from_utf8(piece) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                let cut = &piece[error.valid_up_to()..];
                self.cut[..cut.len()].copy_from_slice(cut);
                self.cut_len = cut.len();
                true
            }
        }
    }

    /// Whether the text may end here.
    pub(super) fn is_whole(&self) -> bool {
        self.cut_len == 0
    }
}
