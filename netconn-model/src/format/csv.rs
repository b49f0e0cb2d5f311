//! Events as comma-separated values: the fields that a person looks at.

use crate::{csv_cell::CsvCells, event::Event, field::Field};

/// The columns.
pub(super) const CSV_FIELDS: [Field; 17] = [
    Field::EventType,
    Field::EventTime,
    Field::Direction,
    Field::ConnectionStatus,
    Field::FailureReason,
    Field::CloseReason,
    Field::LocalAddress,
    Field::LocalPort,
    Field::RemoteAddress,
    Field::RemotePort,
    Field::BytesSent,
    Field::BytesReceived,
    Field::ProcessPid,
    Field::ProcessName,
    Field::ProcessUser,
    Field::ProcessCmdline,
    Field::Protocol,
];

/// Appends the names of the columns.
pub(super) fn heading(out: &mut Vec<u8>) {
    record(CSV_FIELDS.map(|field| field.info().name.to_owned()), out);
}

/// Appends the values of an event, for spreadsheets.
pub(super) fn write(event: &Event<'_>, out: &mut Vec<u8>) {
    write_as(CsvCells::Guarded, event, out);
}

/// Appends the values of an event, for programs.
pub(super) fn write_raw(event: &Event<'_>, out: &mut Vec<u8>) {
    write_as(CsvCells::Raw, event, out);
}

fn write_as(cells: CsvCells, event: &Event<'_>, out: &mut Vec<u8>) {
    // Every record has all columns, so that lines can be read alone.
    record(CSV_FIELDS.map(|field| cells.value(event.value(field).as_ref())), out);
}

fn record(cells: [String; CSV_FIELDS.len()], out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = csv::Writer::from_writer(out).write_record(cells);
}
