//! The cryptography of every TLS connection.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// AWS-LC, save for the cipher suites, with all that belongs to them, where *ring* has the faster
/// AES-GCM: AWS-LC uses vector AES only together with AVX-512; with that of processors that have the
/// one without the other, such as AMD's Zen 3, *ring* is twice as fast.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if let Some(suites) = faster_suites() {
        provider.cipher_suites = suites;
    }
    Arc::new(provider)
}

#[cfg(target_arch = "x86_64")]
fn faster_suites() -> Option<Vec<rustls::SupportedCipherSuite>> {
    let has_vector_aes = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq");
    let has_avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl");
    (has_vector_aes && !has_avx512).then(|| rustls::crypto::ring::ALL_CIPHER_SUITES.to_vec())
}

#[cfg(not(target_arch = "x86_64"))]
fn faster_suites() -> Option<Vec<rustls::SupportedCipherSuite>> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whichever_it_is_the_suites_and_their_order_are_the_same() {
        let names = |suites: &[rustls::SupportedCipherSuite]| {
            suites.iter().map(|suite| suite.suite()).collect::<Vec<_>>()
        };
        let usual = names(&aws_lc_rs::default_provider().cipher_suites);
        assert_eq!(names(&provider().cipher_suites), usual);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(names(rustls::crypto::ring::ALL_CIPHER_SUITES), usual);
    }
}
