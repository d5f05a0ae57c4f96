# The session itself, for session.sh, which reads this file: the assignment's commands in the assignment's order. What is checked
# beyond what a person sees stands after each.

part_1() {
    cat <<'TEXT' | transcript
# The assignment's session with docker-compose

Written by `bins/tests/containers/session.sh`, which runs every command of the assignment on a real engine and checks what it is there for.
Long outputs are cut. [Operations](../operations.md#containers) explains what is behind it.

TEXT
    cat <<TEXT | transcript
Engine $(docker version --format '{{.Server.Version}}'), docker-compose $(docker-compose version --short), Debian $(docker run --rm --network none "$RUNTIME" cat /etc/debian_version).
The session pulls no image: the base image was made from packages (\`RUNTIME\`) and the programs were compiled before (\`BUILD_TARGET=prebuilt\`).
TEXT
    say "## Part 1: login, and what is kept"
    say "In one terminal:"
    begin "$WORK/up.log" "docker-compose up --build"
    eventually "all six are healthy" all_healthy 6
    OUT=$(plain <"$WORK/up.log")
    SHOW='^(Step [0-9]+/|Successfully|Creating .*done)|\| ready' quote "docker-compose up --build" <<<"$OUT"
    say "In another one:"
    SHOW=9 run "docker-compose ps"
    open "docker-compose exec client bash"
    type_in "dsv2-client --user ana"
    expect 'you are ana'
    type_in "/create dev"
    expect 'there is a channel dev'
    type_in "/join dev"
    expect 'you follow dev'
    type_in "olá a todos"
    expect '#dev ana: olá a todos'
    type_in "/users"
    expect '^ana$'
    type_in "/quit"
    close_terminal
    run "docker-compose exec server cat /data/users.json"
    must "the login is kept" grep -q '"user":"ana"' <<<"$OUT"
    eventually "the message is kept" every_server_has messages/publishes.jsonl '"message":"olá a todos"' 1

    # Not root, nothing to write to but data, and the ports of the assignment are there for any client of this host.
    must "nobody is root" test "$(docker-compose exec -T server id -u)" = 5555
    ! docker-compose exec -T server touch /usr/local/bin/x 2>/dev/null || fail "the root file system can be written to"
    local port
    for port in 5555 5556 5557 5558 5559; do
        must "port $port is published" nsenter --net="/run/netns/$ENGINE_NET" bash -c "exec 3<>/dev/tcp/127.0.0.1/$port"
    done
    must "a client of the host is served" nsenter --net="/run/netns/$ENGINE_NET" "$BINARIES/dsv2-client" --user rui login
    must "the session's containers know the cluster" client dsv2 status
    must "the servers' names can be chosen" grep -q "SERVER_NAME: ilha" < <(SERVER_NAME=ilha docker-compose config)
    must "the ports can be opened" grep -q "0.0.0.0:5555" < <(DSV2_PUBLISH_AT=0.0.0.0 docker-compose config)
}

part_2() {
    say "## Part 2: the bot, and a client that receives"
    follow 'publishes' "docker-compose logs -f bot"
    open "docker-compose exec client bash"
    type_in "dsv2-client channels"
    expect '^(geral|esportes|filmes|games|livros|musica|noticias|viagens)$'
    type_in "dsv2-client --user bob tail --count 3"
    expect 'bot-.*'
    close_terminal
}

part_3() {
    say "## Part 3: MessagePack"
    say "Ctrl-C in the first terminal stops everything, and what was written stays:"
    end INT
    must "all ended by themselves" ended_well broker proxy reference server bot
    begin "$WORK/up.log" "SERDE=MSGPACK docker-compose up"
    eventually "all six are healthy" all_healthy 6
    OUT=$(plain <"$WORK/up.log")
    SHOW='^Recreating .*done|\| ready' quote "SERDE=MSGPACK docker-compose up" <<<"$OUT"
    must "the servers publish MessagePack" test "$(docker-compose exec -T server printenv SERDE)" = MSGPACK
    if [ -n "${DSV2_PYTHON:-}" ]; then
        must "a publication in MessagePack reaches a foreign subscriber" timeout 60 \
            nsenter --net="/run/netns/$ENGINE_NET" "$DSV2_PYTHON" "$here/subscriber.py" $(client dsv2-client channels)
    fi
    open "docker-compose exec client bash"
    type_in "dsv2-client --user ana history dev"
    expect 'olá a todos'
    type_in "dsv2-client --user ana publish dev em MessagePack"
    close_terminal
    run "docker-compose exec server cat /data/messages/publishes.jsonl | grep MessagePack"
}

part_4() {
    say "## Part 4: clocks, and the election"
    end INT
    begin "$WORK/up.log" "docker-compose up"
    eventually "all six are healthy" all_healthy 6
    follow 'clock=' "docker-compose logs -f server | grep clock"
    run "docker-compose stop reference"
    must "it ended by itself" ended_well reference
    SHOW=6 follow 'the coordinator stays' "docker-compose logs -f server | grep coordinator"
    must "messages go on without the reference" client dsv2-client --user ana publish dev "sem referência"
    run "docker-compose start reference"
}

part_5() {
    say "## Part 5: replication"
    say "Ctrl-C in the first terminal, and then in it:"
    end INT
    begin "$WORK/up.log" "docker-compose up --scale server=5"
    eventually "all ten are healthy" all_healthy 10
    OUT=$(plain <"$WORK/up.log")
    SHOW='^(Re|C)reating .*done|server_.*\| ready' quote "docker-compose up --scale server=5" <<<"$OUT"
    NAMES=$(servers)
    must "five servers have names and data of their own: $NAMES" test "$(cut -d' ' -f1 <<<"$NAMES" | tr '\n' ' ')" = \
        "$(printf '/var/lib/dsv2/server%s ' 1 2 3 4 5)"
    must "no two are one" test "$(cut -d' ' -f2 <<<"$NAMES" | sort -u | wc -l)" = 5
    eventually "every server has the login" every_server_has users.json '"user":"ana"' 5
    eventually "every server has the message" every_server_has messages/publishes.jsonl 'olá a todos' 5
    follow 'replicad' 'docker-compose logs -f server | grep "replicad"'
    run "docker-compose exec --index=3 server readlink -f /data"
    run "docker-compose exec --index=3 server cat /data/users.json"
    SHOW=7 run "docker-compose exec client dsv2 status"

    say "One of them stops, and the others have the data:"
    run "docker stop dsv2_server_2"
    open "docker-compose exec client bash"
    type_in "dsv2-client --user ana history dev"
    expect 'sem referência'
    type_in "dsv2-client --user ana publish dev sem um deles"
    close_terminal
    docker start dsv2_server_2 >/dev/null
    eventually "it catches up" every_server_has messages/publishes.jsonl 'sem um deles' 5

    say "\`stop server\` stops all of them, each of which finishes what it began; the data are in their volume:"
    run "docker-compose stop server"
    must "all five ended by themselves" ended_well server
    run "docker-compose start server"
    eventually "all are healthy" all_healthy 5 server
    must "each has what it had" test "$(servers)" = "$NAMES"
    must "nothing is lost" client bash -c 'dsv2-client --user ana history dev | grep "sem um deles"' >/dev/null
}

recreated() {
    say "## Beyond the assignment: recreation"
    say "New containers take the data, and with them the names, of those before:"
    end INT
    run "docker-compose up -d --force-recreate --scale server=5"
    eventually "all ten are healthy" all_healthy 10
    must "the same five: $(servers)" test "$(servers)" = "$NAMES"
    run "docker-compose up -d --scale server=2"
    eventually "two are left" all_healthy 2 server
    client dsv2-client --user ana publish dev "a dois" >/dev/null || fail "two servers take no message"
    run "docker-compose up -d --scale server=5"
    eventually "five are there" all_healthy 5 server
    must "the same five: $(servers)" test "$(servers)" = "$NAMES"
    eventually "those who were away catch up" every_server_has messages/publishes.jsonl 'a dois' 5
}

majorities() {
    say "## Beyond the assignment: a majority holds each write"
    SHOW=3 run "docker-compose down -v"
    export DSV2_SERVER_VOTERS=server1,server2,server3
    SHOW=3 run "DSV2_SERVER_VOTERS=server1,server2,server3 docker-compose up -d --scale server=3"
    eventually "three servers are healthy" all_healthy 3 server
    eventually "a coordinator leads" client dsv2-client --user ana create dev
    run "docker-compose exec client dsv2-client --user ana publish dev maioria"
    must "a majority holds it" grep -q quorum <<<"$OUT"
    docker kill dsv2_server_1 >/dev/null
    eventually "two of three go on" client dsv2-client --user ana publish dev "dois de três"
    docker kill dsv2_server_2 >/dev/null
    ! client dsv2-client --user ana --timeout 5 publish dev "um de três" >/dev/null 2>&1 || fail "one of three acknowledges"
    docker start dsv2_server_1 dsv2_server_2 >/dev/null
    eventually "three go on" client dsv2-client --user ana publish dev "três de três"
    eventually "all have it" every_server_has messages/publishes.jsonl 'dois de três' 3
    unset DSV2_SERVER_VOTERS
}

removed() {
    say "## Removing everything"
    say "What everything was, with all data:"
    SHOW=40 run "docker-compose down -v"
    must "no container is left" test -z "$(docker ps -aq)"
    must "no volume is left" test -z "$(docker volume ls -q)"
}

# The image by itself is a whole cluster.
alone() {
    docker run --detach --rm --name dsv2-alone --read-only --tmpfs /run/dsv2:uid=5555 --volume alone:/var/lib/dsv2 dsv2:0.1.0 >/dev/null
    eventually "it is healthy" bash -c '[ "$(docker inspect --format "{{.State.Health.Status}}" dsv2-alone)" = healthy ]'
    must "it is a cluster" docker exec dsv2-alone dsv2-client --user ana create dev >/dev/null
    docker stop dsv2-alone >/dev/null && docker volume rm alone >/dev/null
}
