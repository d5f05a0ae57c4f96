//! Bodies of requests, replies and publications, in both serializations, and the cursors that clients hand in.

use dsv2_core::{
    Announcement, Format, Limits, LinkNotice, Position, Publication, ReplicationEvent, Reply, Request, RequestBody,
    Service,
};
use dsv2_sync::session::ResumePoint;

const SERVICES: [Service; 13] = [
    Service::Login,
    Service::Users,
    Service::Channel,
    Service::Channels,
    Service::Publish,
    Service::Message,
    Service::History,
    Service::Status,
    Service::Rank,
    Service::List,
    Service::Heartbeat,
    Service::Clock,
    Service::Election,
];

/// Bodies that look like JSON.
pub fn json(data: &[u8]) {
    if Format::detect(data) == Some(Format::Json) {
        body(data);
    }
}

/// Bodies that look like MessagePack.
pub fn msgpack(data: &[u8]) {
    if Format::detect(data) == Some(Format::MsgPack) {
        body(data);
    }
}

/// What is understood is written strictly, and then understood as the same; a refusal can always be answered.
fn body(data: &[u8]) {
    let limits = Limits::default();
    match Request::decode(data, &limits) {
        Ok(request) => {
            let again = Request::decode(&request.encode(), &limits);
            assert_eq!(again.as_ref().ok(), Some(&request));
        }
        Err(refusal) => {
            let reply = refusal.reply(dsv2_core::Clock::ZERO, dsv2_core::Timestamp { ms: 0 });
            assert!(!reply.encode().is_empty());
        }
    }
    for service in SERVICES {
        if let Ok(reply) = Reply::decode(service, data, &limits) {
            let again = Reply::decode(service, &reply.encode(), &limits);
            assert!(again.is_ok(), "{again:?} of {reply:?}");
        }
    }
    if let Ok(publication) = Publication::decode(data, &limits) {
        for format in [Format::Json, Format::MsgPack] {
            assert!(Publication::decode(&publication.encode(format), &limits).is_ok(), "{publication:?}");
        }
    }
    let _ = ReplicationEvent::decode(data, &limits);
    let _ = Announcement::decode(data, &limits);
    let _ = LinkNotice::decode(data, &limits);
}

/// Positions and resume points, as programs store them and clients send them.
pub fn cursor(data: &[u8]) {
    if let Ok(position) = serde_json::from_slice::<Position>(data) {
        let text = serde_json::to_vec(&position).expect("a position is plain data");
        assert_eq!(serde_json::from_slice::<Position>(&text).ok(), Some(position));
    }
    if let Ok(point) = serde_json::from_slice::<ResumePoint>(data) {
        let text = serde_json::to_vec(&point).expect("a resume point is plain data");
        let again = serde_json::from_slice::<ResumePoint>(&text).expect("what was written is read");
        assert_eq!(serde_json::to_vec(&again).ok(), Some(text));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let query = format!(r#"{{"service":"history","data":{{"timestamp":1,"clock":1,{text}}}}}"#);
    if let Ok(request) = Request::decode(query.as_bytes(), &Limits::default()) {
        assert!(matches!(request.body, RequestBody::History(_)) || text.contains("service"));
        let again = Request::decode(&request.encode(), &Limits::default());
        assert_eq!(again.as_ref().ok(), Some(&request));
    }
}
