//! A row of a snapshot, as clients read it.

use serde::{Deserialize, Serialize};

/// A connection, flow or listener in a snapshot; `None` means unknown or not applicable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Name of the state.
    pub state: String,
    /// `TCP`, `UDP`, `ICMP`, or the number of another protocol.
    pub protocol: String,
    /// `OUTGOING` or `INCOMING`; none on listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// Address of this end.
    pub local_address: String,
    /// Port of this end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_port: Option<u16>,
    /// Address of the other end; none on listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_address: Option<String>,
    /// Port of the other end; none on listeners, and of protocols without ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<u16>,
    /// Process id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Name of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_name: Option<String>,
    /// Account name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Unix user id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<u32>,
    /// Executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    /// Arguments, joined by spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_line: Option<String>,
    /// How the process is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribution: Option<String>,
    /// When the connection or listener began, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended, RFC 3339; only in rows of connections that have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// How an established connection ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_reason: Option<String>,
    /// Why an attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    /// Payload bytes sent; none on listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<u64>,
    /// Payload bytes received; none on listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
    /// Inode of the network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<u32>,
    /// Container, 64 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// systemd unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub systemd_unit: Option<String>,
    /// `true`: a further path of an MPTCP connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subflow: Option<bool>,
    /// `true`: stands for all that its socket exchanges with ends that have no flow of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folded: Option<bool>,
    /// The same as `event.connection.id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<String>,
}
