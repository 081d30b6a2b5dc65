//! Statistics of raw samples.

use serde::Serialize;

/// What the table shows of one measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Number of samples.
    pub(crate) count: usize,
    /// Median.
    pub(crate) p50: f64,
    /// 90th percentile.
    pub(crate) p90: f64,
    /// 99th percentile.
    pub(crate) p99: f64,
}

impl Summary {
    /// Percentiles by nearest rank: each is one of the samples. `None` without samples.
    ///
    /// With fewer than 100 samples the p99 is the largest one.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            count: sorted.len(),
            p50: nearest_rank(&sorted, 50),
            p90: nearest_rank(&sorted, 90),
            p99: nearest_rank(&sorted, 99),
        })
    }
}

/// `sorted` must not be empty; `percent` is 1 to 100.
fn nearest_rank(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

/// How many times `base` is `value`; `None` where `base` is zero.
pub(crate) fn ratio(value: f64, base: f64) -> Option<f64> {
    (base > 0.0).then(|| value / base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(Summary::of(&hundred), Some(Summary { count: 100, p50: 50.0, p90: 90.0, p99: 99.0 }));
        let ten: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!(Summary::of(&ten), Some(Summary { count: 10, p50: 5.0, p90: 9.0, p99: 10.0 }));
        assert_eq!(Summary::of(&[7.5]), Some(Summary { count: 1, p50: 7.5, p90: 7.5, p99: 7.5 }));
        assert_eq!(Summary::of(&[2.0, 1.0, 3.0]).unwrap().p50, 2.0);
    }

    #[test]
    fn nothing_has_no_percentiles() {
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn a_ratio_needs_a_base() {
        assert_eq!(ratio(30.0, 100.0), Some(0.3));
        assert_eq!(ratio(30.0, 0.0), None);
    }
}
