use super::*;

mod model;

/// A broker with small bounds and a log of what it decided.
struct Bench {
    dispatch: Dispatch,
    out: Vec<Effect>,
    now_ms: u64,
}

fn config() -> DispatchConfig {
    DispatchConfig {
        client_waiting: Quota { messages: 4, bytes: 400 },
        total_waiting: Quota { messages: 8, bytes: 800 },
        server_window: Quota { messages: 3, bytes: 300 },
        lock_step_window: 1,
        wait_deadline_ms: 50,
        answer_deadline_ms: 300,
    }
}

impl Bench {
    fn new() -> Self {
        Self { dispatch: Dispatch::new(config(), 0), out: Vec::new(), now_ms: 0 }
    }

    fn server(&mut self, pace: Pace) -> ServerId {
        self.dispatch.server_joined(self.now_ms, pace, true, &mut self.out)
    }

    /// Whether it was taken.
    fn ask(&mut self, client: ClientId, body: &str) -> bool {
        let message = Message::single(body.as_bytes());
        self.dispatch.request(self.now_ms, client, message, &mut self.out).is_ok()
    }

    fn reply(&mut self, server: ServerId, request: RequestId) -> Result<ClientId, Stray> {
        self.dispatch.reply(self.now_ms, server, request, &mut self.out)
    }

    fn leave(&mut self, server: ServerId) {
        self.dispatch.server_left(self.now_ms, server, &mut self.out);
    }

    fn ready(&mut self, server: ServerId, ready: bool) {
        self.dispatch.server_ready(self.now_ms, server, ready, &mut self.out);
    }

    fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.dispatch.tick(now_ms, &mut self.out);
    }

    /// What was handed over since the last look: (server, request, body).
    fn forwards(&mut self) -> Vec<(ServerId, RequestId, String)> {
        let mut found = Vec::new();
        self.out.retain(|effect| match effect {
            Effect::Forward { server, request, message } => {
                found.push((*server, *request, text(message)));
                false
            }
            _ => true,
        });
        found
    }

    fn refusals(&mut self) -> Vec<(ClientId, String, Refusal)> {
        let mut found = Vec::new();
        self.out.retain(|effect| match effect {
            Effect::Refuse { client, message, why } => {
                found.push((*client, text(message), *why));
                false
            }
            _ => true,
        });
        found
    }

    fn bodies(&mut self) -> Vec<String> {
        let forwards = self.forwards();
        forwards.into_iter().map(|(_, _, body)| body).collect()
    }
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.first()).into_owned()
}

#[test]
fn a_lock_step_server_has_one_request_at_a_time_and_clients_take_turns() {
    let mut bench = Bench::new();
    let server = bench.server(Pace::LockStep);
    let (a, b) = (bench.dispatch.client_joined(), bench.dispatch.client_joined());
    for (client, body) in [(a, "a1"), (a, "a2"), (a, "a3"), (b, "b1"), (b, "b2")] {
        assert!(bench.ask(client, body));
    }
    let mut seen = Vec::new();
    loop {
        let handed = bench.forwards();
        let [(_, request, body)] = handed.as_slice() else {
            assert!(handed.is_empty(), "two requests at once: {handed:?}");
            break;
        };
        seen.push(body.clone());
        let owner = if body.starts_with('a') { a } else { b };
        assert_eq!(bench.reply(server, *request), Ok(owner));
    }
    assert_eq!(seen, ["a1", "a2", "b1", "a3", "b2"]);
    assert!(bench.dispatch.is_idle());
}

#[test]
fn new_clients_go_to_the_server_with_the_fewest_and_stay_there() {
    let mut bench = Bench::new();
    let servers = [bench.server(Pace::Window), bench.server(Pace::Window)];
    let clients: Vec<_> = (0..4).map(|_| bench.dispatch.client_joined()).collect();
    for _ in 0..3 {
        let mut went = Vec::new();
        for client in &clients {
            assert!(bench.ask(*client, "x"));
            let (server, request, _) = bench.forwards().remove(0);
            bench.reply(server, request).unwrap();
            went.push(server);
        }
        assert_eq!(went, [servers[0], servers[1], servers[0], servers[1]]);
    }
    // A client that leaves makes room for the next.
    bench.dispatch.client_left(clients[1], &mut bench.out);
    let late = bench.dispatch.client_joined();
    bench.ask(late, "x");
    assert_eq!(bench.forwards()[0].0, servers[1]);
}

#[test]
fn a_lost_server_answers_unknown_for_what_it_had_and_the_rest_moves() {
    let mut bench = Bench::new();
    let first = bench.server(Pace::Window);
    let client = bench.dispatch.client_joined();
    for body in ["1", "2", "3", "4", "5"] {
        bench.ask(client, body);
    }
    assert_eq!(bench.bodies(), ["1", "2", "3"], "a window of three");
    let second = bench.server(Pace::Window);
    bench.leave(first);
    let refused = bench.refusals();
    let expected = ["1", "2", "3"].map(|body| (client, body.to_string(), Refusal::ServerLost));
    assert_eq!(refused, expected);
    assert_eq!(Refusal::ServerLost.outcome(), Outcome::Unknown);
    let moved = bench.forwards();
    assert_eq!(
        moved.iter().map(|(server, _, body)| (*server, body.as_str())).collect::<Vec<_>>(),
        [(second, "4"), (second, "5")]
    );
}

#[test]
fn a_draining_server_finishes_what_it_has_before_its_client_moves() {
    let mut bench = Bench::new();
    let first = bench.server(Pace::Window);
    let client = bench.dispatch.client_joined();
    bench.ask(client, "1");
    let (_, request, _) = bench.forwards().remove(0);
    let second = bench.server(Pace::Window);
    bench.ready(first, false);
    bench.ask(client, "2");
    assert!(bench.forwards().is_empty(), "2 would overtake 1");
    assert_eq!(bench.reply(first, request), Ok(client));
    let forwards = bench.forwards();
    assert_eq!((forwards.len(), forwards[0].0, forwards[0].2.as_str()), (1, second, "2"));
}

#[test]
fn without_a_server_requests_wait_until_the_deadline_or_the_next_server() {
    let mut bench = Bench::new();
    let client = bench.dispatch.client_joined();
    bench.ask(client, "1");
    bench.now_ms = 20;
    bench.ask(client, "2");
    assert_eq!(bench.dispatch.deadline(), Some(50));
    bench.tick(49);
    assert!(bench.refusals().is_empty());
    bench.tick(50);
    assert_eq!(bench.refusals(), [(client, "1".to_string(), Refusal::NoServer)]);
    assert_eq!(Refusal::NoServer.outcome(), Outcome::Rejected);
    bench.server(Pace::LockStep);
    assert_eq!(bench.bodies(), ["2"]);
}

#[test]
fn a_server_not_yet_ready_gets_nothing() {
    let mut bench = Bench::new();
    let server = bench.dispatch.server_joined(0, Pace::Window, false, &mut bench.out);
    let client = bench.dispatch.client_joined();
    bench.ask(client, "1");
    assert!(bench.forwards().is_empty());
    bench.ready(server, true);
    assert_eq!(bench.bodies(), ["1"]);
}

#[test]
fn a_silent_lock_step_server_loses_its_clients_until_it_replies() {
    let mut bench = Bench::new();
    let silent = bench.server(Pace::LockStep);
    let client = bench.dispatch.client_joined();
    bench.ask(client, "1");
    let (_, first, _) = bench.forwards().remove(0);
    bench.now_ms = 100;
    bench.ask(client, "2");
    bench.tick(300);
    assert_eq!(bench.refusals(), [(client, "1".to_string(), Refusal::NoAnswer)]);
    assert_eq!(bench.dispatch.load().available_servers, 0);
    // The late reply reaches nobody, but the server is good again.
    assert_eq!(bench.reply(silent, first), Err(Stray::NotOutstanding));
    assert_eq!(bench.bodies(), ["2"]);
}

#[test]
fn a_lock_step_server_may_be_given_more_and_each_of_them_may_have_been_carried_out() {
    let limits = DispatchConfig { lock_step_window: 2, ..config() };
    let mut bench = Bench { dispatch: Dispatch::new(limits, 0), ..Bench::new() };
    let server = bench.server(Pace::LockStep);
    let client = bench.dispatch.client_joined();
    for body in ["1", "2", "3"] {
        bench.ask(client, body);
    }
    let handed = bench.forwards();
    assert_eq!(handed.len(), 2);
    bench.reply(server, handed[0].1).unwrap();
    assert_eq!(bench.bodies(), ["3"]);
    bench.leave(server);
    let unknown: Vec<_> = bench.refusals().into_iter().map(|(_, body, why)| (body, why.outcome())).collect();
    assert_eq!(unknown, [("2".to_owned(), Outcome::Unknown), ("3".to_owned(), Outcome::Unknown)]);
}

#[test]
fn a_silent_window_server_frees_the_place_of_what_it_lost() {
    let mut bench = Bench::new();
    let server = bench.server(Pace::Window);
    let client = bench.dispatch.client_joined();
    for body in ["1", "2", "3", "4"] {
        bench.ask(client, body);
    }
    let handed = bench.forwards();
    bench.now_ms = 200;
    bench.reply(server, handed[1].1).unwrap();
    assert_eq!(bench.bodies(), ["4"]);
    bench.tick(300);
    let refused: Vec<_> = bench.refusals().into_iter().map(|r| r.1).collect();
    assert_eq!(refused, ["1", "3"]);
    assert_eq!(bench.reply(server, handed[0].1), Err(Stray::NotOutstanding), "answered twice");
}

#[test]
fn replies_reach_their_own_request_only_once() {
    let mut bench = Bench::new();
    let (one, two) = (bench.server(Pace::Window), bench.server(Pace::Window));
    let (a, b) = (bench.dispatch.client_joined(), bench.dispatch.client_joined());
    bench.ask(a, "a");
    bench.ask(b, "b");
    let handed = bench.forwards();
    assert_eq!(bench.reply(two, handed[0].1), Err(Stray::NotOutstanding));
    assert_eq!(bench.reply(one, handed[0].1), Ok(a));
    assert_eq!(bench.reply(one, handed[0].1), Err(Stray::NotOutstanding));
    bench.dispatch.client_left(b, &mut bench.out);
    assert_eq!(bench.reply(two, handed[1].1), Err(Stray::ClientGone));
    assert!(RequestId::from_frame(b"short").is_none());
    assert_eq!(RequestId::from_frame(&handed[0].1.to_bytes()), Some(handed[0].1));
}

#[test]
fn a_full_client_is_handed_its_request_back_and_resumed_when_half_is_gone() {
    let mut bench = Bench::new();
    let server = bench.server(Pace::LockStep);
    let client = bench.dispatch.client_joined();
    for body in ["0", "1", "2", "3", "4"] {
        assert!(bench.ask(client, body));
    }
    assert!(!bench.ask(client, "5"), "four may wait");
    let other = bench.dispatch.client_joined();
    assert!(bench.ask(other, "other"), "others go on");
    let mut resumed_after = None;
    let mut answered = 0;
    while let Some((_, request, _)) = bench.forwards().pop() {
        answered += 1;
        bench.reply(server, request).unwrap();
        if bench.out.contains(&Effect::Resume { client }) && resumed_after.is_none() {
            resumed_after = Some(answered);
            assert!(bench.ask(client, "5"));
        }
    }
    assert_eq!(resumed_after, Some(3), "1, 2 and other were handed over");
    assert_eq!(answered, 7);
    assert_eq!(bench.out, [Effect::Resume { client }]);
}

#[test]
fn the_total_bound_parks_everybody_and_resumes_everybody() {
    let mut bench = Bench::new();
    let clients: Vec<_> = (0..3).map(|_| bench.dispatch.client_joined()).collect();
    for n in 0..4 {
        assert!(bench.ask(clients[0], &format!("a{n}")));
        assert!(bench.ask(clients[1], &format!("b{n}")));
    }
    assert!(!bench.ask(clients[2], "c"));
    assert_eq!(bench.dispatch.load().waiting.messages, 8);
    bench.dispatch.client_left(clients[0], &mut bench.out);
    assert_eq!(bench.out, [Effect::Resume { client: clients[2] }]);
    assert!(bench.ask(clients[2], "c"));
}

#[test]
fn a_request_larger_than_every_bound_goes_alone() {
    let mut bench = Bench::new();
    let client = bench.dispatch.client_joined();
    let huge = "h".repeat(2000);
    assert!(bench.ask(client, &huge));
    assert!(!bench.ask(client, "small"));
    let server = bench.server(Pace::Window);
    let (_, request, _) = bench.forwards().remove(0);
    assert!(bench.ask(client, "small"));
    assert!(bench.forwards().is_empty(), "the window is full of the huge one");
    bench.reply(server, request).unwrap();
    assert_eq!(bench.bodies(), ["small"]);
}

#[test]
fn stopping_answers_everything() {
    let mut bench = Bench::new();
    bench.server(Pace::LockStep);
    let client = bench.dispatch.client_joined();
    bench.ask(client, "1");
    bench.ask(client, "2");
    bench.forwards();
    bench.dispatch.stop(&mut bench.out);
    assert_eq!(
        bench.refusals(),
        [(client, "2".to_string(), Refusal::Stopping), (client, "1".to_string(), Refusal::StoppedUnanswered),]
    );
    assert!(bench.dispatch.is_idle());
}
