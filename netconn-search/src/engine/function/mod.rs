//! Functions of the language as functions of DataFusion, over columns.

pub(crate) mod column;

pub(crate) mod bucket;

pub(crate) mod whole;

pub(crate) mod matcher;

pub(crate) mod geography;

pub(crate) mod call;

pub(crate) mod sequence;
