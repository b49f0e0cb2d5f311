//! From events and connections to bytes. Encoders know nothing of where the bytes go.

pub mod community_id;
pub mod event;
pub mod json;
pub mod packet;
pub mod row;
pub mod subject;

#[cfg(test)]
mod tests;
