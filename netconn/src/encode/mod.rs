//! From events and connections to bytes. Encoders know nothing of where the bytes go.

pub mod event;
pub mod packet;
pub mod row;
pub mod subject;

#[cfg(test)]
mod tests;
