#!/bin/bash
# Record .github/tutorial.svg, the moving picture in README.md.
# Needs tmux and asciinema 2 (packages of Debian), svg-term (npm install -g svg-term-cli), .venv,
# and a RabbitMQ on 127.0.0.1:5672 or at AMQP_URL, whose task_queue is empty.
set -eu
cd "$(dirname "$0")/.."
type tmux asciinema svg-term .venv/bin/python >/dev/null # ends here if one of them is missing
columns=97 rows=20                                       # just enough that no console scrolls

work=$(mktemp -d)
T="tmux -S $work/socket -f /dev/null" # a tmux of our own, without anybody's settings
trap '$T kill-server 2>/dev/null || true; rm -rf "$work"' EXIT
unset TMUX # so that it can be started in a tmux, too

# Three consoles with a plain green prompt, and .venv's python. They leave your history alone.
export PS1='\[\e[32m\]$\[\e[0m\] ' PATH="$PWD/.venv/bin:$PATH" TERM=xterm-256color LC_ALL=C.UTF-8
$T new-session -d -x $columns -y $rows bash --norc +o history
$T set -g status off
$T set -g automatic-rename off # nothing is drawn anew in the middle
$T set -g pane-base-index 1
$T set -g pane-border-status top
$T set -g pane-border-format ' #[fg=cyan,bold]#{pane_title}#[default] '
$T set -g pane-border-style fg=brightblack
$T set -g pane-active-border-style fg=brightblack
$T split-window -v -t 1 -l 9 bash --norc +o history
$T split-window -h -t 1 bash --norc +o history
for console in 1 2 3; do $T select-pane -t $console -T "console $console"; done

# wait_until COMMAND: for 15 seconds at most
wait_until() {
    for _ in {1..300}; do
        "$@" && return
        sleep 0.05
    done
    echo "In vain: $*" >&2
    exit 1
}

# shows CONSOLE TEXT: is this its last line?
shows() {
    [ "$($T capture-pane -p -t "$1" | sed '/^$/d' | tail -n 1)" = "$2" ]
}

# type_in CONSOLE TEXT: after the prompt, three letters at a time
type_in() {
    wait_until shows "$1" '$'
    for ((i = 0; i < ${#2}; i += 3)); do
        $T send-keys -t "$1" -l -- "${2:i:3}"
        sleep 0.04
    done
    $T send-keys -t "$1" Enter
}

# The picture begins with two workers that wait
for console in 1 2; do
    type_in $console "python worker.py"
    wait_until shows $console " [*] Waiting for messages. To exit press CTRL+C"
done
wait_until shows 3 '$'
setsid asciinema rec -q --cols $columns --rows $rows -c "$T attach" "$work/all.cast" &
wait_until grep -qs "console 3" "$work/all.cast"
sleep 0.5 # to look at it
start=$(wc -l <"$work/all.cast") # the recording's lines so far: tmux draws the consoles

for task in "First message." "Second message.." "Third message..." "Survive me....."; do
    type_in 3 "python new_task.py $task"
done
wait_until shows 3 '$'
wait_until shows 2 " [x] Received 'Survive me.....'"
wait_until shows 1 " [x] Done"
sleep 0.5 # still in the middle of the task
$T send-keys -t 2 C-c
wait_until shows 1 " [x] Received 'Survive me.....'"
wait_until shows 1 " [x] Done"
sleep 4 # the picture ends with a still
$T kill-server
wait

# What tmux draws at the start becomes one step, and what it draws at its end becomes nothing.
# Then colours: CTRL+C, the task that it interrupts, and the end of that task. The text stays.
sed -E '
    2{ :more; '"$start"'!{ N; b more }; s/"]\n[^"]*"o", "//g }
    /1049l/{ s/"o", .*/"o", ""]/; q }
    s/.Survive me\.+./\\u001b[33m&\\u001b[39m/
    /\^C/,$s/\[x\] Done/\\u001b[33m&\\u001b[39m/
    s/\^C/\\u001b[31m&\\u001b[39m/
' "$work/all.cast" >"$work/tutorial.cast"
# --from 1: without the empty screen that svg-term adds at 0 milliseconds
svg-term --from 1 --no-cursor --padding 10 --in "$work/tutorial.cast" --out "$work/tutorial.svg"

# A viewBox, so that a page may show it smaller. And Consolas is too narrow: lines would have gaps.
mkdir -p .github
sed -E '
    1s/width="([0-9.]+)" height="([0-9.]+)"/& viewBox="0 0 \1 \2"/
    s/Consolas/Lucida Console/
' "$work/tutorial.svg" >.github/tutorial.svg
