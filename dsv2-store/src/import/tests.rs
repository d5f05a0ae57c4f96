use super::*;
use crate::disk::MemDisk;

fn import(files: &[(&str, &str)]) -> (Vec<Imported>, Vec<String>) {
    let disk = MemDisk::new();
    files.iter().for_each(|(path, content)| disk.put(path, *content));
    let (good, bad): (Vec<_>, Vec<_>) = import_family(&disk).partition(Result::is_ok);
    (good.into_iter().flatten().collect(), bad.into_iter().filter_map(Result::err).map(|e| e.to_string()).collect())
}

fn bodies(imported: &[Imported]) -> Vec<EventBody> {
    imported.iter().map(|imported| imported.body.clone()).collect()
}

fn login(user: &str) -> EventBody {
    EventBody::UserLogin { user: user.parse().expect("a name") }
}

fn publish(user: &str, channel: &str, message: &str) -> EventBody {
    let (user, channel) = (user.parse().expect("a name"), channel.parse().expect("a name"));
    EventBody::Publish { user, channel, message: message.to_owned() }
}

fn private(src: &str, dst: &str, message: &str) -> EventBody {
    let (src, dst) = (src.parse().expect("a name"), dst.parse().expect("a name"));
    EventBody::Message { src, dst, message: message.to_owned() }
}

/// The files as a cluster of the family left them.
#[test]
fn the_files_seen_in_a_running_cluster_are_understood() {
    let (imported, problems) = import(&[
        (
            "users.json",
            "[\n  {\"name\": \"ana\", \"login_timestamp\": 1795407353.924},\n  {\"name\": \"bob\", \"login_timestamp\": \"2026-11-23T04:15:53.924000\"}\n]",
        ),
        ("channels.json", r#"[{"name": "geral", "created_timestamp": 1795407353924}]"#),
        (
            "messages/publishs.jsonl",
            "{\"user\": \"ana\", \"channel\": \"geral\", \"message\": \"ol\\u00e1\", \"timestamp\": 1795407353, \"clock\": 7}\n",
        ),
        (
            "messages/messages.jsonl",
            "{\"src\": \"ana\", \"dst\": \"bob\", \"message\": \"psiu\", \"timestamp\": 1795407353924000, \"clock\": 9.0}",
        ),
    ]);
    assert_eq!(problems, [""; 0]);
    let geral = EventBody::ChannelCreate { channel: "geral".parse().expect("a name") };
    assert_eq!(
        bodies(&imported),
        [login("ana"), login("bob"), geral, publish("ana", "geral", "olá"), private("ana", "bob", "psiu")]
    );
    let times: Vec<_> = imported.iter().map(|imported| imported.timestamp.map_or(0, |at| at.ms)).collect();
    assert_eq!(times, [1_795_407_353_924, 1_795_407_353_924, 1_795_407_353_924, 1_795_407_353_000, 1_795_407_353_924]);
    assert_eq!(imported[3].clock.map(Clock::get), Some(7));
    assert_eq!(imported[4].clock.map(Clock::get), Some(9));
    assert_eq!(imported[1].place, ImportPlace { file: "users.json", number: 2 });
}

#[test]
fn other_forms_are_understood() {
    let (imported, problems) = import(&[
        ("users.json", "{\"user\": \"ana\"}\n\n\"bob\"\n{\"username\":\"eva\",\"timestamp\":\"1795407353\"}\n"),
        ("channels.json", r#" ["geral", {"channel": "dev"}]"#),
        (
            "messages/publishes.jsonl",
            r#"{"type":"message_publish","data":{"user":"ana","channel":"dev","message":"a"},"clock":3}"#,
        ),
        ("messages/publishs.jsonl", r#"[{"user":"ana","channel":"dev","message":"b"}]"#),
        ("messages/messages.jsonl", r#"{"service":"message","data":{"from":"ana","to":"bob","message":"","clock":4}}"#),
    ]);
    assert_eq!(problems, [""; 0]);
    let channel = |name: &str| EventBody::ChannelCreate { channel: name.parse().expect("a name") };
    let expected = [
        login("ana"),
        login("bob"),
        login("eva"),
        channel("geral"),
        channel("dev"),
        publish("ana", "dev", "a"),
        publish("ana", "dev", "b"),
        private("ana", "bob", ""),
    ];
    assert_eq!(bodies(&imported), expected);
    assert_eq!(imported[2].timestamp, Some(Timestamp { ms: 1_795_407_353_000 }));
    assert_eq!(imported[5].clock.map(Clock::get), Some(3));
    assert_eq!(imported[7].clock.map(Clock::get), Some(4));
}

#[test]
fn what_is_wrong_is_reported_and_the_rest_comes() {
    let lines = "{\"user\":\"ana\",\"channel\":\"dev\",\"message\":\"1\"}\nnot JSON\n{\"user\":\"ana\",\"channel\":\"dev\"}\n{\"user\":\"a/b\",\"channel\":\"dev\",\"message\":\"x\"}\n[1]\n{\"user\":\"ana\",\"channel\":\"dev\",\"message\":\"2\"";
    let (imported, problems) = import(&[
        ("users.json", "[\"ana\", 7, \"_x\""),
        ("channels.json", "[\"dev\", 7, \"replication\", {\"name\": null}]"),
        ("messages/publishes.jsonl", lines),
        ("messages/messages.jsonl", ""),
    ]);
    assert_eq!(imported.len(), 2);
    let starts = [
        "users.json: is no JSON array",
        "channels.json, entry 2: has no channel",
        "channels.json, entry 3: \"replication\" is no name: it is reserved",
        "channels.json, entry 4: has no channel",
        "messages/publishes.jsonl, entry 2: is no JSON",
        "messages/publishes.jsonl, entry 3: has no message",
        "messages/publishes.jsonl, entry 4: \"a/b\" is no user: it holds the character '/'",
        "messages/publishes.jsonl, entry 5: has no user",
        "messages/publishes.jsonl, entry 6: is no JSON",
    ];
    assert_eq!(problems.len(), starts.len(), "{problems:#?}");
    for (problem, start) in problems.iter().zip(starts) {
        assert!(problem.starts_with(start), "{problem}");
    }
}

#[test]
fn bytes_that_are_not_text_and_endless_lines_are_reported() {
    let disk = MemDisk::new();
    let mut content = b"{\"user\":\"\xff\"}\n".to_vec();
    content.extend(vec![b'x'; LINE_CAP_BYTES + 10]);
    content.extend(b"\n{\"user\":\"ana\"}");
    disk.put("users.json", content);
    let results: Vec<_> = import_family(&disk).map(|result| result.map(|imported| imported.body)).collect();
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, false, true]);
    assert!(results[1].as_ref().is_err_and(|problem| problem.reason.contains("more than")));
}

/// What this store writes is understood too.
#[test]
fn our_own_files_can_be_imported() {
    use crate::store::EventStore;
    let disk = MemDisk::new();
    let events = crate::testing::Sampler::new(3).batch(50);
    let mut store =
        crate::JsonlStore::open(std::sync::Arc::new(disk.clone()), crate::JsonlConfig::default()).expect("opens");
    store.append(&events).expect("appends");
    let imported: Vec<_> = import_family(&disk).collect::<Result<_, _>>().expect("no problems");
    let mut expected: Vec<_> = events.into_iter().map(|event| (event.body.kind(), event.body, event.clock)).collect();
    expected.sort_by_key(|(kind, _, clock)| (*kind, *clock));
    let imported: Vec<_> = imported.into_iter().map(|i| (i.body.kind(), i.body, i.clock.expect("a clock"))).collect();
    assert_eq!(imported, expected);
}
