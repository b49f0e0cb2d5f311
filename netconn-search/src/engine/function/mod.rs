//! Functions of the language that DataFusion does not have, or has with other rules: row by row over values.

pub(crate) mod value;

pub(crate) mod number;

pub(crate) mod text;

pub(crate) mod format;

pub(crate) mod network;

pub(crate) mod array;

pub(crate) mod time;

pub(crate) mod bucket;

pub(crate) mod whole;

pub(crate) mod matcher;

pub(crate) mod geography;

pub(crate) mod table;

pub(crate) mod call;
