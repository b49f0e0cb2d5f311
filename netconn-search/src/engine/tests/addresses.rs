//! Compares addresses that are written in different ways: in events of other programs, in queries, in tables.

use super::{rows, table};
use crate::engine::Search;

const EVENTS: &str = r#"{"event.id":"a","event.time":1,"dst.ip.address":"2001:db8::1","x.peer":"2001:0DB8::1"}
{"event.id":"b","event.time":2,"dst.ip.address":"2001:0DB8:0:0:0:0:0:0001","x.peer":"10.0.0.9"}
{"event.id":"c","event.time":3,"dst.ip.address":"::ffff:192.0.2.7","x.peer":"192.0.2.7"}
{"event.id":"d","event.time":4,"dst.ip.address":"192.0.2.7"}
{"event.id":"e","event.time":5,"dst.ip.address":"unknown","x.peer":"unknown"}
"#;

#[test]
fn every_spelling_of_an_address_is_the_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    std::fs::write(&path, EVENTS).unwrap();
    let found = |filter: &str| rows(&path, &format!("{filter} | sort event.id | columns event.id")).concat().concat();
    for (filter, expected) in [
        ("dst.ip.address = '2001:DB8::1'", "ab"),
        ("'2001:db8:0000:0:0:0:0:1' = dst.ip.address", "ab"),
        ("dst.ip.address != '2001:DB8::1'", "cde"),
        ("dst.ip.address =:anycase '2001:DB8::0:1'", "ab"),
        ("dst.ip.address in ('2001:DB8::1', '192.0.2[.]7 ')", "abcd"),
        ("dst.ip.address in:anycase ('::FFFF:192.0.2.7', 'UNKNOWN')", "cde"),
        ("dst.ip.address in ('2001:0DB8::/32')", "ab"),
        ("dst.ip.address = 'unknown'", "e"),
        ("dst.ip.address = x.peer", "ace"),
        ("x.peer != dst.ip.address", "bd"),
        ("dst.ip.address in ('192.0.2.9', x.peer)", "ace"),
        ("dst.ip.address in (event.id = 'a' | columns x.peer)", "ab"),
        ("dst.ip.address <= '192.0.2.7'", "cd"),
    ] {
        assert_eq!(found(filter), expected, "{filter}");
    }
    assert_eq!(
        rows(&path, "| group n = count() by dst.ip.address | sort -n, dst.ip.address"),
        table(&[&["192.0.2.7", "2"], &["2001:db8::1", "2"], &["unknown", "1"]])
    );
}

/// Parquet files of other programs have addresses in any form, and are found by the form that an answer shows.
#[test]
fn parquet_of_other_programs_is_found_by_its_own_text() {
    use datafusion::{
        arrow::{
            array::{ArrayRef, RecordBatch, StringArray},
            datatypes::{DataType, Field, Schema},
        },
        parquet::arrow::ArrowWriter,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.parquet");
    let schema = std::sync::Arc::new(Schema::new(vec![Field::new("dst.ip.address", DataType::Utf8, true)]));
    let texts: ArrayRef = std::sync::Arc::new(StringArray::from(vec!["2001:DB8::1", "2001:db8::1", "10.0.0.1"]));
    let batch = RecordBatch::try_new(std::sync::Arc::clone(&schema), vec![texts]).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    for (filter, expected) in [
        ("dst.ip.address = '2001:DB8::1'", 2),
        ("dst.ip.address != '2001:DB8::1'", 1),
        ("dst.ip.address in ('2001:DB8::1', '10.0.0.9')", 2),
        ("dst.ip.address = '2001:db8::1'", 1),
    ] {
        assert_eq!(rows(&path, filter).len(), expected, "{filter}");
    }
}

#[test]
fn tables_may_write_addresses_in_any_form() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson");
    std::fs::write(&path, EVENTS).unwrap();
    std::fs::write(folder.path().join("known.csv"), "ip,who\n2001:DB8:0::1,lab\n192.0.2[.]7,web\n").unwrap();
    let search = Search { tables: Some(folder.path().to_owned()), ..Search::new(vec![path]) };
    let found = |query: &str| super::search(&search, query).unwrap().0.split_off(1).concat();
    let each = ["lab", "lab", "web", "web", "null"];
    assert_eq!(found("| lookup who from known by ip = dst.ip.address | sort event.id | columns who"), each);
    let joined = found(
        "| columns event.id, dst.ip.address | left join k = (| dataset 'known') on dst.ip.address = k.ip | sort event.id \
         | columns who",
    );
    assert_eq!(joined, each);
}
