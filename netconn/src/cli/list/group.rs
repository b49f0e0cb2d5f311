//! Groups of rows.

use std::collections::HashMap;

use netconn_model::row::{Row, RowColumn, state_place};

/// Puts entries into groups: states in their own order, everything else by size, the largest first. Within a group the order
/// stays. The group of rows for which the column is not known is called `-`.
pub(super) fn groups<T>(
    entries: Vec<T>,
    by: &RowColumn,
    row: impl for<'t> Fn(&'t T) -> &'t Row<'static>,
) -> Vec<(String, Vec<T>)> {
    // The groups are in a list, so that those of equal size and their entries keep an order.
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<(String, Vec<T>)> = Vec::new();
    for entry in entries {
        let name = by.group(row(&entry)).unwrap_or_else(|| "-".into());
        let place = places.get(&name).copied().unwrap_or(groups.len());
        match groups.get_mut(place) {
            Some((_, members)) => members.push(entry),
            None => {
                places.insert(name.clone(), place);
                groups.push((name, vec![entry]));
            }
        }
    }
    if by.is_state() {
        // No group is empty, so the first entry stands for all.
        groups.sort_by_key(|(_, members)| members.first().map(|entry| state_place(row(entry))));
    } else {
        groups.sort_by(|one, other| other.1.len().cmp(&one.1.len()).then_with(|| one.0.cmp(&other.0)));
    }
    groups
}

#[cfg(test)]
mod tests {
    use netconn_model::{row::column_by_name, value::PlainText};

    use super::*;

    #[test]
    fn groups_are_counted() {
        let row = |state: &'static str, process: &'static str| Row {
            state: Some(PlainText::new(state)),
            process_name: Some(process.into()),
            ..Row::default()
        };
        let rows = [row("LISTENING", "a"), row("ESTABLISHED", "b"), row("ESTABLISHED", "b"), row("FIN_WAIT1", "c")];
        let by = |name| -> Vec<(String, usize)> {
            let by = column_by_name(name).unwrap();
            groups(rows.to_vec(), by, |row| row).into_iter().map(|(name, rows)| (name, rows.len())).collect()
        };
        let named = |pairs: &[(&str, usize)]| -> Vec<(String, usize)> {
            pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        assert_eq!(by("state"), named(&[("LISTENING", 1), ("ESTABLISHED", 2), ("FIN_WAIT1", 1)]));
        assert_eq!(by("process"), named(&[("b", 2), ("a", 1), ("c", 1)]));
        assert_eq!(by("unit"), named(&[("-", 4)]));
    }
}
