//! The client's mask (RFC 6455 section 5.3).

/// XORs `bytes` with `key`, in place; masking and unmasking are the same.
pub fn apply_mask(bytes: &mut [u8], key: [u8; 4]) {
    let word = u64::from_ne_bytes([
        key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
    ]);
    let mut words = bytes.chunks_exact_mut(8);
    for chunk in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(eight) ^ word).to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// Appends `masked`, unmasked, to `out`.
pub fn unmask_onto(out: &mut Vec<u8>, masked: &[u8], key: [u8; 4]) {
    let start = out.len();
    out.extend_from_slice(masked);
    apply_mask(&mut out[start..], key);
}

/// A fresh unpredictable key, as the protocol asks of whoever plays the client.
#[must_use]
pub fn random_mask() -> [u8; 4] {
    rand::random()
}
