//! Opus packets in an Ogg stream (RFC 3533, RFC 7845), pages written by hand.

/// Packets a page holds at most: one second.
const PACKETS_PER_PAGE: usize = 50;
/// Samples of a packet at 48 kHz.
const PACKET_SAMPLES: u64 = 960;
/// The stream's number. Streams are never multiplexed here, so one number does for all.
const SERIAL: u32 = 0x7869_746e;

const CONTINUES_NOTHING: u8 = 0;
const FIRST_PAGE: u8 = 2;
const LAST_PAGE: u8 = 4;

/// Collects packets and writes pages. One packet always stays behind, so that the last page, which
/// carries the end-of-stream mark, is never empty.
pub(super) struct OggWriter {
    pre_skip: u16,
    n_pages: u32,
    n_packets: u64,
    waiting: Vec<&'static [u8]>,
}

impl OggWriter {
    pub(super) fn new(pre_skip: u16) -> Self {
        Self {
            pre_skip,
            n_pages: 0,
            n_packets: 0,
            waiting: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, packet: &'static [u8]) {
        self.waiting.push(packet);
    }

    /// Bytes of the waiting packets and the pages around them, at most.
    pub(super) fn n_waiting(&self) -> usize {
        let bytes: usize = self.waiting.iter().map(|packet| packet.len()).sum();
        bytes + bytes / 30 + 200
    }

    /// Writes all packets but the last.
    pub(super) fn write_page(&mut self, out: &mut Vec<u8>) {
        while self.waiting.len() > 1 {
            let n_packets = (self.waiting.len() - 1).min(PACKETS_PER_PAGE);
            let packets: Vec<_> = self.waiting.drain(..n_packets).collect();
            self.headers(out);
            self.n_packets += n_packets as u64;
            let granule = self.n_packets * PACKET_SAMPLES;
            self.page(CONTINUES_NOTHING, granule, &packets, out);
        }
    }

    /// Writes what is left. `granule` is where the audio ends, pre-skip included: what the last
    /// packet holds beyond it is cut off by the decoder (RFC 7845 section 4.4).
    pub(super) fn finish(&mut self, granule: u64, out: &mut Vec<u8>) {
        self.write_page(out);
        self.headers(out);
        let packets = std::mem::take(&mut self.waiting);
        self.page(LAST_PAGE, granule, &packets, out);
    }

    fn headers(&mut self, out: &mut Vec<u8>) {
        if self.n_pages > 0 {
            return;
        }
        let mut head = b"OpusHead\x01\x01".to_vec();
        head.extend_from_slice(&self.pre_skip.to_le_bytes());
        head.extend_from_slice(&48_000u32.to_le_bytes());
        head.extend_from_slice(&[0, 0, 0]);
        self.page(FIRST_PAGE, 0, &[&head], out);
        let vendor = b"xi-relay sandbox";
        let mut tags = b"OpusTags".to_vec();
        tags.extend_from_slice(&(vendor.len() as u32).to_le_bytes());
        tags.extend_from_slice(vendor);
        tags.extend_from_slice(&0u32.to_le_bytes());
        self.page(CONTINUES_NOTHING, 0, &[&tags], out);
    }

    fn page(&mut self, flags: u8, granule: u64, packets: &[&[u8]], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(b"OggS\0");
        out.push(flags);
        out.extend_from_slice(&granule.to_le_bytes());
        out.extend_from_slice(&SERIAL.to_le_bytes());
        out.extend_from_slice(&self.n_pages.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let lacing: Vec<u8> = packets
            .iter()
            .flat_map(|packet| lacing(packet.len()))
            .collect();
        out.push(u8::try_from(lacing.len()).expect("50 packets of at most 480 bytes fit a page"));
        out.extend_from_slice(&lacing);
        packets
            .iter()
            .for_each(|packet| out.extend_from_slice(packet));
        let checksum = crc(&out[start..]);
        out[start + 22..start + 26].copy_from_slice(&checksum.to_le_bytes());
        self.n_pages += 1;
    }
}

/// A packet's length as bytes of 255 and a last one below it (RFC 3533 section 6).
fn lacing(length: usize) -> impl Iterator<Item = u8> {
    std::iter::repeat_n(255, length / 255).chain([(length % 255) as u8])
}

/// The checksum of Ogg: polynomial 0x04c11db7, not reflected, starting from 0.
fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc, byte| {
        crc << 8 ^ CRC_TABLE[usize::from((crc >> 24) as u8 ^ byte)]
    })
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc >> 31 == 1 {
                crc << 1 ^ 0x04c1_1db7
            } else {
                crc << 1
            };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lacing_ends_below_255() {
        assert_eq!(lacing(80).collect::<Vec<_>>(), [80]);
        assert_eq!(lacing(480).collect::<Vec<_>>(), [255, 225]);
        assert_eq!(lacing(255).collect::<Vec<_>>(), [255, 0]);
    }

    #[test]
    fn the_last_page_carries_the_mark_and_a_packet() {
        let mut ogg = OggWriter::new(312);
        let mut out = Vec::new();
        for _ in 0..3 {
            ogg.push(&[0xf8; 80]);
        }
        ogg.write_page(&mut out);
        let before = out.len();
        ogg.finish(2000, &mut out);
        let last = &out[before..];
        assert_eq!(
            (&last[..4], last[5], last[26]),
            (&b"OggS"[..], LAST_PAGE, 1)
        );
        assert_eq!(last[6..14], 2000u64.to_le_bytes());
    }
}
