//! Whose turn it is.

/// Order of `count` sides in a round: forward, then backward, so that two sides run as A B B A.
///
/// Whatever drifts with time (the page cache, the clock of the CPU, a neighbour) then meets each side alike.
pub(crate) fn of_round(round: usize, count: usize) -> Vec<usize> {
    if round.is_multiple_of(2) { (0..count).collect() } else { (0..count).rev().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sides_alternate_as_abba() {
        let turns: Vec<usize> = (0..4).flat_map(|round| of_round(round, 2)).collect();
        assert_eq!(turns, [0, 1, 1, 0, 0, 1, 1, 0]);
    }

    #[test]
    fn each_side_has_the_same_mean_place() {
        for count in 1..6 {
            let mut places = vec![0; count];
            for round in 0..10 {
                for (place, side) in of_round(round, count).into_iter().enumerate() {
                    places[side] += place;
                }
            }
            assert!(places.iter().all(|sum| *sum == places[0]), "{places:?}");
        }
    }
}
