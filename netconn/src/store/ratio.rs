//! How large a segment will be once it is converted, learned from the conversions of this host.

/// In what parts of an NDJSON segment its Parquet file is counted.
pub(super) const WHOLE: u64 = 1000;
/// As long as no conversion was seen: most are a fiftieth, but small ones with long command lines may be a tenth.
const FIRST: u64 = 125;

/// The size of Parquet files, as a part of the segments they are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConvertedRatio {
    /// In thousandths.
    part: u64,
}

impl Default for ConvertedRatio {
    fn default() -> Self {
        Self { part: FIRST }
    }
}

impl ConvertedRatio {
    /// Takes the sizes of a segment and of the Parquet file that was made of it, bytes.
    pub(super) fn learn(&mut self, segment: u64, parquet: u64) {
        let seen = (parquet.saturating_mul(WHOLE) / segment.max(1)).clamp(1, WHOLE);
        // At once for the worse, slowly for the better: what was counted as too small removes old events later.
        self.part = if seen > self.part { seen } else { self.part - (self.part - seen) / 4 };
    }

    /// Returns what part of a segment is set aside for it, in thousandths: a fourth more than its Parquet file is expected to have.
    pub(super) fn part(self) -> u64 {
        (self.part * 5).div_ceil(4).min(WHOLE)
    }

    /// Returns how many bytes are set aside for a segment of this size.
    pub(super) fn expected(self, segment: u64) -> u64 {
        let expected = u128::from(segment) * u128::from(self.part()) / u128::from(WHOLE);
        u64::try_from(expected).unwrap_or(segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worse_counts_at_once_and_what_is_better_slowly() {
        let mut ratio = ConvertedRatio::default();
        assert_eq!(ratio.expected(8_000_000), 1_256_000);
        ratio.learn(67_000_000, 800_000);
        assert!(ratio.expected(8_000_000) > 800_000, "{ratio:?}");
        for _ in 0..30 {
            ratio.learn(67_000_000, 800_000);
        }
        assert!((100_000..200_000).contains(&ratio.expected(8_000_000)), "{ratio:?}");
        ratio.learn(1000, 500);
        assert_eq!(ratio.expected(8_000_000), 5_000_000);
        for (segment, parquet) in [(0, 5), (5, 0), (u64::MAX, 1), (1, u64::MAX)] {
            ratio.learn(segment, parquet);
            assert!(ratio.part() <= WHOLE && ratio.expected(100) <= 100, "{ratio:?}");
        }
    }
}
