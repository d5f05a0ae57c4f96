use std::time::Instant;
use dsv2_core::*;
use dsv2_sync::session::*;
#[test]
#[ignore]
fn perf() {
    let mut s = Session::new(SessionConfig { user: "ana".parse().ok(), random: 7, ..SessionConfig::default() });
    let now = Now { mono: Mono::from_ms(1000), wall: Wall::from_ms(1_795_407_353_924) };
    let mut out = Vec::new();
    s.step(now, Input::BrokerUp, &mut out);
    let origin: Origin = "server1/00000000000000ff".parse().unwrap();
    let mut seq = 0;
    let mut session = None;
    let mut replies: Vec<(u64, Vec<u8>)> = Vec::new();
    let n = 300_000u64;
    let (mut t_call, mut t_reply) = (0u128, 0u128);
    let channel: ChannelName = "dev".parse().unwrap();
    let mut done = 0;
    let mut token = 0;
    while done < n {
        replies.clear();
        for e in out.drain(..) {
            match e {
                Effect::Send { request, body } => {
                    let r = Request::decode(&body, &Limits::default()).unwrap();
                    session = session.or(r.ext.session);
                    seq += 1;
                    let id = MessageId::Request { session: SessionId::new(Clock::ZERO, 5), number: seq };
                    let reply = Reply { format: Format::Json, service: "publish".into(), timestamp: RawTimestamp::Integer(1), clock: Clock::new(seq), position: None,
                        body: ReplyBody::Done(Some(Receipt { id, event: EventId { origin: origin.clone(), seq }, level: Level::Local })) };
                    replies.push((request, reply.encode()));
                }
                Effect::Done { .. } => done += 1,
                _ => {}
            }
        }
        let t = Instant::now();
        for (request, body) in replies.drain(..) { s.step(now, Input::Reply { request, body }, &mut out); }
        t_reply += t.elapsed().as_nanos();
        let t = Instant::now();
        for _ in 0..1000 {
            if !s.accepts() { break; }
            token += 1;
            s.step(now, Input::Call { token, command: Command::Publish { channel: channel.clone(), message: "x".repeat(100) }, options: CallOptions::default() }, &mut out);
        }
        t_call += t.elapsed().as_nanos();
    }
    println!("call {} ns, reply {} ns", t_call / u128::from(n), t_reply / u128::from(n));
    // deliveries
    let mut s = Session::new(SessionConfig { window: 1 << 30, ..SessionConfig::default() });
    let mut out = Vec::new();
    s.step(now, Input::BrokerUp, &mut out);
    s.step(now, Input::ProxyUp, &mut out);
    s.step(now, Input::Call { token: 1, command: Command::Subscribe { feeds: vec![Feed::Channel(channel.clone())], cursor: Cursor::Last }, options: CallOptions::default() }, &mut out);
    let request = out.iter().find_map(|e| match e { Effect::Send { request, .. } => Some(*request), _ => None }).unwrap();
    let page = HistoryPage { events: vec![], next: Position::default(), heads: Position::default(), more: false, stable: None };
    let reply = Reply { format: Format::Json, service: "history".into(), timestamp: RawTimestamp::Integer(1), clock: Clock::new(1), position: None, body: ReplyBody::History(page) };
    s.step(now, Input::Reply { request, body: reply.encode() }, &mut out);
    for format in [Format::Json, Format::MsgPack] {
    let base = if format == Format::Json { 0 } else { n };
    let pubs: Vec<Vec<u8>> = (base + 1..=base + n).map(|seq| Publication {
        body: PublicationBody::Channel { user: "ana".into(), channel: None, message: "x".repeat(100) }, timestamp: Some(Timestamp { ms: 1_795_407_353_924 }), clock: Clock::new(seq),
        id: Some(MessageId::Request { session: SessionId::new(Clock::ZERO, 5), number: seq }), event: Some(EventId { origin: origin.clone(), seq }),
        prev: (seq > 1).then(|| EventId { origin: origin.clone(), seq: seq - 1 }) }.encode(format)).collect();
    let t = Instant::now();
    for p in &pubs { drop(Publication::decode(p, &Limits::default())); }
    println!("{format:?} decode alone {} ns", t.elapsed().as_nanos() / u128::from(n));
    let t = Instant::now();
    let mut got = 0;
    for body in pubs { s.step(now, Input::Published { topic: b"dev".to_vec(), body }, &mut out); got += out.iter().filter(|e| matches!(e, Effect::Deliver { .. })).count(); out.clear(); }
    println!("{format:?} deliver {} ns ({got})", t.elapsed().as_nanos() / u128::from(n));
    }
}
