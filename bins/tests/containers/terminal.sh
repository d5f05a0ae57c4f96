# What a person does at a terminal, for session.sh, which reads this file: each command is written to the transcript as it was
# typed, with what it said. Everything is bounded in time; nothing waits for a span of time, but for what is expected.
#
# say TEXT             prose for the transcript.
# run COMMAND          runs it on a terminal of its own, to its end, which must be a success. What it said is in $OUT.
# follow PATTERN COMMAND   runs what has no end until it says the pattern, and then ends it, as by Ctrl-C.
# open COMMAND         starts a terminal; `type_in LINE`, `expect PATTERN` [since where], `close_terminal` end with it.
# eventually WHAT COMMAND  repeats a check until it holds; nothing of it is in the transcript.

PATIENCE=90
# So many lines of what a command says are shown, unless SHOW says otherwise.
LINES_SHOWN=12
OUT=
TERMINAL_PID=
# Process groups that were started and not ended yet.
GROUPS_STARTED=()

fail() {
    echo "session: $*" >&2
    exit 1
}

transcript() { cat >>"$TRANSCRIPT"; }

say() { printf '\n%s\n' "$*" | tee -a "$TRANSCRIPT"; }

# As a terminal shows it in the end: without colours, without what was overwritten, and without what `script` itself says.
plain() {
    sed -u -e 's/\r\x1b\[[0-9]*B/\n/g' -e 's/\x1b\[[0-9;?]*[a-zA-Z]//g' -e 's/\x1b[()][A-Z0-9]//g' -e 's/\r//g' -e 's/\^@//g' |
        grep --line-buffered -vE ' \.\.\. ?$|^Session terminated'
}

# The first lines of what was said, or the last of those that match a pattern.
shown() {
    local lines=${SHOW:-$LINES_SHOWN}
    case $lines in
        *[!0-9]*) grep -E -- "$lines" | tail -n "$LINES_SHOWN" ;;
        *) awk -v max="$lines" 'NR <= max { print } END { if (NR > max) print "[" NR - max " more lines]" }' ;;
    esac | cut -c 1-250 | sed 's/ *$//'
}

# A command and what it said, as a block; lines without anything at its end are left out.
quote() {
    { printf '\n```console\n$ %s\n' "$1"; sed -e ':a' -e '/^\n*$/{$d;N;ba' -e '}' | shown; printf '```\n'; } | tee -a "$TRANSCRIPT"
}

run() {
    local begun=$SECONDS status
    OUT=$(timeout --kill-after=5 "$PATIENCE" script --quiet --return --command "$1" /dev/null </dev/null 2>&1 | plain; exit "${PIPESTATUS[0]}")
    status=$?
    quote "$1" <<<"$OUT"
    [ "$status" = 0 ] || fail "\`$1\` ended with $status after $((SECONDS - begun)) s: $OUT"
}

# Starts a command in a process group of its own, with what it says in a file.
begin() {
    local file=$1 command=$2
    # What a shell starts in the background would ignore Ctrl-C.
    env --default-signal=INT setsid bash -c "$command" >"$file" 2>&1 </dev/null &
    GROUPS_STARTED+=("$!")
}

# Ends the group that was started last by a signal, and waits until it is gone.
end() {
    local signal=$1 group=${GROUPS_STARTED[-1]}
    unset 'GROUPS_STARTED[-1]'
    kill "-$signal" -- "-$group" 2>/dev/null
    local deadline=$((SECONDS + PATIENCE))
    while kill -0 -- "-$group" 2>/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || { kill -KILL -- "-$group"; fail "process group $group did not end by $signal"; }
        sleep 0.1
    done
    wait "$group" 2>/dev/null
}

end_all() {
    for group in "${GROUPS_STARTED[@]}"; do
        kill -KILL -- "-$group" 2>/dev/null
    done
    [ -z "$TERMINAL_PID" ] || kill -KILL "$TERMINAL_PID" 2>/dev/null
}

eventually() {
    local what=$1 deadline=$((SECONDS + PATIENCE))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || fail "never: $what"
        sleep 0.3
    done
}

follow() {
    local pattern=$1 command=$2 file="$WORK/follow.log"
    begin "$file" "exec script --quiet --flush --command $(printf %q "$command") /dev/null"
    eventually "\`$command\` says $pattern" grep -Eq -- "$pattern" "$file"
    end TERM
    OUT=$(plain <"$file")
    SHOW=${SHOW:-4} quote "$command" <<<"$OUT"
}

open() {
    TERMINAL_COMMAND=$1
    rm -f "$WORK/keys" "$WORK/screen"
    mkfifo "$WORK/keys"
    timeout --kill-after=5 "$PATIENCE" script --quiet --flush --return --command "$1" /dev/null <"$WORK/keys" >"$WORK/screen" 2>&1 &
    TERMINAL_PID=$!
    exec 8>"$WORK/keys"
    TERMINAL_SEEN=0
}

# What the terminal has shown since the last line was typed must come to match.
expect() {
    local deadline=$((SECONDS + 30))
    until tail -c "+$((TERMINAL_SEEN + 1))" "$WORK/screen" | plain | grep -E -- "$1" >/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || fail "the terminal never shows $1, but: $(plain <"$WORK/screen")"
        sleep 0.1
    done
}

# Types a line at the next prompt.
type_in() {
    expect '[$>] $'
    TERMINAL_SEEN=$(stat -c %s "$WORK/screen")
    printf '%s\n' "$1" >&8
}

close_terminal() {
    type_in exit
    exec 8>&-
    local status=0
    wait "$TERMINAL_PID" || status=$?
    TERMINAL_PID=
    OUT=$(plain <"$WORK/screen")
    SHOW=${SHOW:-40} quote "$TERMINAL_COMMAND" <<<"$OUT"
    [ "$status" = 0 ] || fail "\`$TERMINAL_COMMAND\` ended with $status"
}
