//! Events as lines of native NDJSON.

use std::borrow::Cow;

use bytes::BytesMut;
use netconn_common::IPPROTO_TCP;

pub use crate::field::Event;
use crate::{
    fact::{End, EventKind, protocol_number},
    field::Section,
    json::{Object, SecondText},
};

/// Who this sensor is: the facts that every event says of it.
#[derive(Clone, Debug)]
pub struct Sensor {
    /// Stable per host, in the form of a UUID.
    pub id: String,
    /// Host name.
    pub host: String,
    /// Organization, if configured.
    pub site: Option<String>,
    /// Name of the data source.
    pub source: String,
    /// The kernel's id of this boot, 32 hex digits without hyphens.
    pub boot: String,
}

impl Sensor {
    /// Fills in the members of [`Section::Sensor`].
    pub fn describe<'a>(&'a self, event: &mut Event<'a>) {
        let Self { id, host, site, source, boot: _ } = self;
        event.endpoint_name = Some(Cow::Borrowed(host));
        event.endpoint_os = Some(Cow::Borrowed("linux"));
        event.sensor_id = Some(Cow::Borrowed(id));
        event.sensor_version = Some(Cow::Borrowed(env!("CARGO_PKG_VERSION")));
        event.site_id = site.as_deref().map(Cow::Borrowed);
        event.source_name = Some(Cow::Borrowed(source));
        event.source_vendor = Some(Cow::Borrowed("netconn"));
        event.source_category = Some(Cow::Borrowed("security"));
    }
}

impl Event<'_> {
    /// Returns the kind; lines without one are no events of netconn.
    pub fn is(&self, kind: EventKind) -> bool {
        self.kind == Some(kind)
    }

    /// Returns this end of the connection, if its address is known; port 0 stands for an unknown port.
    pub fn local(&self) -> Option<End> {
        Some(End { address: self.local_address?, port: self.local_port.unwrap_or(0) })
    }

    /// Returns the other end of the connection, if its address is known; port 0 stands for an unknown port.
    pub fn remote(&self) -> Option<End> {
        Some(End { address: self.remote_address?, port: self.remote_port.unwrap_or(0) })
    }

    /// Returns whether the event is of a flow of datagrams or of a datagram socket.
    pub fn is_of_datagrams(&self) -> bool {
        self.protocol.as_deref().is_some_and(|protocol| protocol_number(protocol) != Some(IPPROTO_TCP))
    }

    /// Appends the event as one line of native NDJSON.
    pub fn write_line(&self, out: &mut BytesMut, seconds: &mut SecondText) {
        let mut object = Object::begin(out, seconds);
        for section in Section::ALL {
            self.write_section(*section, &mut object);
        }
        object.end_line();
    }
}
