# Completion of zpipe for fish 3.1 and later; `man zpipe-completion` tells where it goes.
#
# The tables are renewed by .ci/completion.py; the rest is by hand.

# Print the command that the cursor is in, or -, and how many operands stand before the cursor.
function __zpipe_place
    set -l command -
    set -l taken
    set -l ended
    set -l awaited
    set -l line (commandline -opc)
    set -e line[1]
    for word in $line
        if set -q awaited[1]
            set awaited
        else if not set -q ended[1]; and test "$word" = --
            set ended yes
        else if not set -q ended[1]; and string match -q -- '-?*' $word
            if __zpipe_awaits $command $word
                set awaited yes
            end
        else if test $command = -
            set command $word
        else if test $command = plan; and not set -q taken[1]; and contains -- $word (__zpipe_words planned)
            set command $word
        else
            set -a taken $word
        end
    end
    echo $command
    count $taken
    set -q ended[1]; and echo ended
    return 0
end

# Tell whether the next word is the value of an option in this one.
function __zpipe_awaits
    set -l valued (__zpipe_valued $argv[1])
    if string match -q -- '--*' $argv[2]
        contains -- $argv[2] $valued
        return
    end
    set -l letters (string split '' -- (string sub -s 2 -- $argv[2]))
    while set -q letters[1]
        if contains -- -$letters[1] $valued
            not set -q letters[2]
            return
        end
        set -e letters[1]
    end
    return 1
end

# Tell whether the cursor is in a command; - is none.
function __zpipe_in
    set -l place (__zpipe_place)
    test $place[1] = $argv[1]
end

# Tell whether the word at the cursor is an operand of a kind.
function __zpipe_takes
    set -l place (__zpipe_place)
    if not set -q place[3]; and string match -q -- '-*' (commandline -ct)
        return 1
    end
    set -l kinds (__zpipe_operands $place[1])
    if test "$kinds[-1]" = ...
        set -e kinds[-1]
        if test $place[2] -ge (count $kinds)
            test $kinds[-1] = $argv[1]
            return
        end
    end
    set -l turn (math $place[2] + 1)
    set -q kinds[$turn]; and test $kinds[$turn] = $argv[1]
end

# Print the word at the cursor, as it is written, without the name of the option before it.
function __zpipe_word
    string replace -r -- '^--[a-z-]+=' '' (commandline -ct)
end

# Print words that may follow those with commas between them.
function __zpipe_some
    set -l given (string match -r -- '^.*,' (__zpipe_word))
    for word in $argv
        if not contains -- $word (string split , -- "$given")
            echo "$given"$word
        end
    end
end

# Print the paths that begin with a word, which may be quoted.
function __zpipe_paths
    for path in (complete -C "'' $argv[1]")
        # fish also completes what stands behind a : or =, which is no path here
        if not string match -q -r -- '[:=]' $argv[1]; or test -e (string replace -r -- '^~/' $HOME/ $path)
            echo $path
        end
    end
end

function __zpipe_folders
    __zpipe_paths (__zpipe_word) | string match -r -- '.*/$'
end

# Print recipes and folders; recipes that came with zpipe, where no other begins so.
function __zpipe_recipes
    set -l word (__zpipe_word)
    set -l found (__zpipe_paths $word | string match -r -- '.*(?:/|\.ya?ml)$')
    string join \n -- $found
    # what fish has found may also have the letters in other places
    if not string match -q -- (string unescape -- $word)'*' $found; and not string match -q -- '*/*' $word
        set -l program (command -s zpipe); or return 0
        # set is content with a pattern that nothing matches
        set -l shipped (string replace -r -- '/bin/[^/]*$' '' (realpath $program))/share/zpipe/recipes/$word*.yaml
        string join \n -- $shipped
    end
end

# Print addresses of a kind, and paths where they may stand alone or behind a scheme.
function __zpipe_ends
    set -l kind $argv[1]
    set -l word (__zpipe_word)
    set -l parts (string match -r -- '^(["\']?)([a-z-]+):(.*)$' $word)
    set -l scheme $parts[3]
    set -l behind $parts[2]$parts[4]
    switch "$kind:$scheme"
        case 'listen:*' 'upstream:*'
            __zpipe_words $kind
            test "$scheme" = unix; and string replace -r -- '^' unix: (__zpipe_paths $behind)
        case '*:file' '*:pipe' '*:unix' '*:unix-listen'
            string replace -r -- '^' $scheme: (__zpipe_paths $behind)
        case '*:exec'
            if string match -q -- '*/*' $behind
                string replace -r -- '^' exec: (__zpipe_paths $behind)
            else if test -n "$behind"
                string replace -r -- '^' exec: (complete -C $behind)
            end
        case '*:hash'
            test $kind = source; or string replace -r -- '^' hash: (__zpipe_words digests)
        case '*'
            __zpipe_words $kind
            string match -q -- '*://*' $word; or __zpipe_paths $word
    end
    return 0
end

complete -c zpipe -e
complete -c zpipe -f
for kind in source sink end listen upstream
    complete -c zpipe -n "__zpipe_takes $kind" -a "(__zpipe_ends $kind)"
end
complete -c zpipe -n '__zpipe_takes file' -F
complete -c zpipe -n '__zpipe_takes folder' -a '(__zpipe_folders)'
complete -c zpipe -n '__zpipe_takes recipe' -a '(__zpipe_recipes)'
complete -c zpipe -n '__zpipe_takes plan' -a '(__zpipe_words planned; __zpipe_recipes)'
complete -c zpipe -n '__zpipe_takes shell' -a '(__zpipe_words shells)'

# begin: tables
function __zpipe_valued
    switch $argv[1]
        case cp
            string split ' ' -- '-t --to --target-directory --no-preserve --exclude --sparse --checksum-file -j --jobs --executor --offset --length --via --no-via --rate-limit --stall-timeout --pipe-size --when-full --detach-after --spill-max --spill-dir --spill-then --json-fd --progress'
        case cat
            string split ' ' -- '--bytes --count --buffer --hash --hash-file --via --no-via --rate-limit --stall-timeout --pipe-size --size --name --interval --json-fd --progress'
        case tee
            string split ' ' -- '--split-size --when-full --detach-after --spill-max --spill-dir --spill-then --via --no-via --rate-limit --stall-timeout --pipe-size --json-fd --progress'
        case proxy
            string split ' ' -- '--listen --trust-proxy --workers --user --group --balance --retries --check --resolve-interval --route-sni --route-default --send-proxy --mirror --capture --capture-max --max-connections --when-full --per-source --rate-limit --total-rate-limit --allow --deny --connect-timeout --idle-timeout --half-closed-timeout --max-lifetime --opening-timeout --drain-timeout --exit-idle-time --pipe-size --access-log --access-format --metrics --progress'
        case status
            string split ' ' -- '--interval'
        case replay
            string split ' ' -- '--id --pace --speed -j --jobs --timeout'
        case run
            string split ' ' -- '-p --json-fd --progress --report'
        case check
            string split ' ' -- '-p'
        case graph
            string split ' ' -- '-p --format -o --output --report'
        case plan
            string split ' ' -- '-p'
        case bench
            string split ' ' -- '--suite --sizes --routes --techniques --outputs --seconds --dir --plot'
    end
end

function __zpipe_operands
    switch $argv[1]
        case cat
            string split ' ' -- 'source ...'
        case check
            string split ' ' -- 'recipe ...'
        case completion
            string split ' ' -- 'shell'
        case cp
            string split ' ' -- 'source end ...'
        case doctor
            string split ' ' -- 'file ...'
        case graph
            string split ' ' -- 'recipe'
        case plan
            string split ' ' -- 'plan'
        case proxy
            string split ' ' -- 'upstream ...'
        case replay
            string split ' ' -- 'folder upstream'
        case run
            string split ' ' -- 'recipe'
        case status
            string split ' ' -- 'upstream'
        case tee
            string split ' ' -- 'sink ...'
    end
end

function __zpipe_words
    switch $argv[1]
        case source
            string split ' ' -- 'file: fd: pipe: tcp:// tcp-listen:// unix: unix-listen: exec: null: zero: pattern:'
        case sink
            string split ' ' -- 'file: fd: pipe: tcp:// tcp-listen:// unix: unix-listen: exec: null: pattern: hash:'
        case end
            string split ' ' -- 'file: fd: pipe: tcp:// tcp-listen:// unix: unix-listen: exec: null: zero: pattern: hash:'
        case listen
            string split ' ' -- 'unix: fd:'
        case upstream
            string split ' ' -- 'unix:'
        case commands
            string split ' ' -- 'cp cat tee proxy status replay run check graph plan bench doctor completion'
        case planned
            string split ' ' -- 'cp cat tee proxy'
        case digests
            string split ' ' -- 'blake2b blake2s md5 sha1 sha224 sha256 sha384 sha3_224 sha3_256 sha3_384 sha3_512 sha512'
        case shells
            string split ' ' -- 'bash zsh fish'
    end
end

complete -c zpipe -n '__zpipe_in -' -a cp -d 'Move one source to one sink, or to several'
complete -c zpipe -n '__zpipe_in -' -a cat -d 'Write sources one after the other to standard output, and measure'
complete -c zpipe -n '__zpipe_in -' -a tee -d 'Copy standard input to standard output and to every output'
complete -c zpipe -n '__zpipe_in -' -a proxy -d 'Listen, relay connections to upstreams, and mirror what goes through'
complete -c zpipe -n '__zpipe_in -' -a status -d 'Show how the proxies of this user do, or one by its --metrics address'
complete -c zpipe -n '__zpipe_in -' -a replay -d 'Play captured connections back to an upstream, and compare the answers'
complete -c zpipe -n '__zpipe_in -' -a run -d 'Carry out a recipe: its streams until done, its proxies until stopped'
complete -c zpipe -n '__zpipe_in -' -a check -d 'Tell whether recipes are valid, and what is wrong with them and where'
complete -c zpipe -n '__zpipe_in -' -a graph -d 'Draw what a recipe joins, as text, SVG, Mermaid or DOT'
complete -c zpipe -n '__zpipe_in -' -a plan -d 'Show how the bytes of a recipe or a command would go, at what cost, and why'
complete -c zpipe -n '__zpipe_in -' -a bench -d 'Measure ways of carrying bytes side by side, on this machine'
complete -c zpipe -n '__zpipe_in -' -a doctor -d 'Find out what zpipe can do on this machine, and what is worth changing'
complete -c zpipe -n '__zpipe_in -' -a completion -d 'Print the script by which bash, zsh or fish completes command lines'

complete -c zpipe -n '__zpipe_in -' -l debug -d 'Show where an internal error arose'
complete -c zpipe -n '__zpipe_in -' -l version -d 'Print the version and exit'
complete -c zpipe -n '__zpipe_in -' -l help -d 'Show this message and exit'

complete -c zpipe -n '__zpipe_in cp' -s t -l to -l target-directory -x -a '(__zpipe_ends sink)' -d 'Copy to DST'
complete -c zpipe -n '__zpipe_in cp' -s r -s R -l recursive -d 'Copy directories, with all that is in them'
complete -c zpipe -n '__zpipe_in cp' -s a -l archive -d 'As -dR --preserve=all'
complete -c zpipe -n '__zpipe_in cp' -s p -d 'As --preserve=mode,ownership,timestamps'
complete -c zpipe -n '__zpipe_in cp' -l preserve -f -a '(__zpipe_some mode ownership timestamps links xattr context all)' -d 'Keep attributes'
complete -c zpipe -n '__zpipe_in cp' -l no-preserve -x -a '(__zpipe_some mode ownership timestamps links xattr context all)' -d 'Do not keep these'
complete -c zpipe -n '__zpipe_in cp' -s d -d 'As -P --preserve=links'
complete -c zpipe -n '__zpipe_in cp' -s L -l dereference -d 'Follow symbolic links'
complete -c zpipe -n '__zpipe_in cp' -s P -l no-dereference -d 'Copy symbolic links as links'
complete -c zpipe -n '__zpipe_in cp' -s H -d 'Follow those that are operands'
complete -c zpipe -n '__zpipe_in cp' -s n -l no-clobber -d 'Leave files that exist'
complete -c zpipe -n '__zpipe_in cp' -s u -d 'Leave files that are not older than SRC'
complete -c zpipe -n '__zpipe_in cp' -l update -f -a 'all older none' -d 'Replace all files, older ones, or none'
complete -c zpipe -n '__zpipe_in cp' -s i -l interactive -d 'Ask before a file is replaced'
complete -c zpipe -n '__zpipe_in cp' -s f -l force -d 'Replace files that cannot be opened for writing'
complete -c zpipe -n '__zpipe_in cp' -l remove-destination -d 'Remove a target before, links too'
complete -c zpipe -n '__zpipe_in cp' -s T -l no-target-directory -d 'DST is never a directory to copy into'
complete -c zpipe -n '__zpipe_in cp' -s l -l link -d 'Make hard links instead of copies'
complete -c zpipe -n '__zpipe_in cp' -s s -l symbolic-link -d 'Make symbolic links instead of copies'
complete -c zpipe -n '__zpipe_in cp' -l parents -d 'Give SRC its whole path below DST'
complete -c zpipe -n '__zpipe_in cp' -s x -l one-file-system -d 'Stay on the filesystem of SRC'
complete -c zpipe -n '__zpipe_in cp' -s v -l verbose -d 'Name each file on standard output'
complete -c zpipe -n '__zpipe_in cp' -l exclude -x -d 'Leave out names, or with a slash paths below SRC, that match'
complete -c zpipe -n '__zpipe_in cp' -l sparse -x -a 'auto always never' -d 'Keep holes (auto), make them of zeros, or fill them'
complete -c zpipe -n '__zpipe_in cp' -l reflink -f -a 'auto always never' -d 'Share blocks where that goes (auto), always, or never'
complete -c zpipe -n '__zpipe_in cp' -l verify -d 'Read DST back from the disk, and compare'
complete -c zpipe -n '__zpipe_in cp' -l checksum-file -r -F -d 'Write a line for sha256sum -c per file'
complete -c zpipe -n '__zpipe_in cp' -l resume -d 'Keep a journal, and go on where one ends'
complete -c zpipe -n '__zpipe_in cp' -s j -l jobs -x -d 'Copy by N workers at once, 1 to 256 (as many as processors, 8 at the most)'
complete -c zpipe -n '__zpipe_in cp' -l executor -x -a 'processes threads dask: mpi' -d 'Copy by processes, threads, MODULE:FACTORY, dask:ADDRESS or mpi (processes)'
complete -c zpipe -n '__zpipe_in cp' -l offset -x -d 'Begin at this byte of the source'
complete -c zpipe -n '__zpipe_in cp' -l length -x -d 'Stop after this many bytes'
complete -c zpipe -n '__zpipe_in cp' -l append -d 'Add to the end of DST (O_APPEND), in place'
complete -c zpipe -n '__zpipe_in cp' -l inplace -d 'Truncate DST and write to it, as cp does'
complete -c zpipe -n '__zpipe_in cp' -l sync -d 'Make DST durable (fsync) before saying that it is done'
complete -c zpipe -n '__zpipe_in cp' -l via -x -a 'reflink parallel copy_range sendfile splice mapped direct plain tee' -d 'Move by this mover, or fail'
complete -c zpipe -n '__zpipe_in cp' -l no-via -x -a 'reflink parallel copy_range sendfile splice mapped direct plain tee' -d 'Never by this one'
complete -c zpipe -n '__zpipe_in cp' -l stable -d 'Clone or copy what would go by reference'
complete -c zpipe -n '__zpipe_in cp' -l rate-limit -x -d 'Bytes per second, at the most (no limit)'
complete -c zpipe -n '__zpipe_in cp' -l stall-timeout -x -d 'Give up when nothing moves for so long (never)'
complete -c zpipe -n '__zpipe_in cp' -l pipe-size -x -d 'Capacity of the private pipe, 4K to 2G (1M)'
complete -c zpipe -n '__zpipe_in cp' -l lease -d 'Hold writers off the source while it is read'
complete -c zpipe -n '__zpipe_in cp' -l when-full -x -a 'block detach spill' -d 'When an output, standard output too, takes no more'
complete -c zpipe -n '__zpipe_in cp' -l detach-after -x -d 'With detach: drop an output that takes nothing for so long (5s)'
complete -c zpipe -n '__zpipe_in cp' -l spill-max -x -d 'Spill at most so much for each output (1G)'
complete -c zpipe -n '__zpipe_in cp' -l spill-dir -x -a '(__zpipe_folders)' -d 'Spill to files in DIR (TMPDIR, or /var/tmp)'
complete -c zpipe -n '__zpipe_in cp' -l spill-then -x -a 'block detach' -d 'When so much is spilled already (block)'
complete -c zpipe -n '__zpipe_in cp' -l explain -d 'Show plan and outcome on standard error'
complete -c zpipe -n '__zpipe_in cp' -l dry-run -d 'Show the plan'
complete -c zpipe -n '__zpipe_in cp' -l json -d 'Report in JSON Lines on standard error'
complete -c zpipe -n '__zpipe_in cp' -l json-fd -x -d 'JSON Lines on fd N'
complete -c zpipe -n '__zpipe_in cp' -l progress -x -a 'auto always never' -d 'On a terminal after a second, always, or never'
complete -c zpipe -n '__zpipe_in cp' -s q -l quiet -d 'No progress'
complete -c zpipe -n '__zpipe_in cp' -l json-files -d 'With --json: a record for each file, too'
complete -c zpipe -n '__zpipe_in cp' -l help -d 'Show this message and exit'

complete -c zpipe -n '__zpipe_in cat' -l bytes -l count -x -d 'Stop after this many bytes'
complete -c zpipe -n '__zpipe_in cat' -l buffer -x -d 'Read ahead of the output by so much'
complete -c zpipe -n '__zpipe_in cat' -l hash -x -a 'blake2b blake2s md5 sha1 sha224 sha256 sha384 sha3_224 sha3_256 sha3_384 sha3_512 sha512' -d 'Print on standard error the digest of what passes'
complete -c zpipe -n '__zpipe_in cat' -l hash-file -r -F -d 'Write the digest there instead'
complete -c zpipe -n '__zpipe_in cat' -l via -x -a 'reflink parallel copy_range sendfile splice mapped direct plain tee' -d 'Move by this mover, or fail'
complete -c zpipe -n '__zpipe_in cat' -l no-via -x -a 'reflink parallel copy_range sendfile splice mapped direct plain tee' -d 'Never by this one'
complete -c zpipe -n '__zpipe_in cat' -l stable -d 'Clone or copy what would go by reference'
complete -c zpipe -n '__zpipe_in cat' -l rate-limit -x -d 'Bytes per second, at the most (no limit)'
complete -c zpipe -n '__zpipe_in cat' -l stall-timeout -x -d 'Give up when nothing moves for so long (never)'
complete -c zpipe -n '__zpipe_in cat' -l pipe-size -x -d 'Capacity of the private pipe, 4K to 2G (1M)'
complete -c zpipe -n '__zpipe_in cat' -l stats -d 'At the end: bytes, rates, and the slow side'
complete -c zpipe -n '__zpipe_in cat' -l size -x -d 'How many bytes to expect, for the display'
complete -c zpipe -n '__zpipe_in cat' -l name -x -d 'What the display calls it (SRC -> output)'
complete -c zpipe -n '__zpipe_in cat' -l interval -x -d 'Time between two looks of display and stats (1s, on a terminal 0.2s)'
complete -c zpipe -n '__zpipe_in cat' -s u -d 'Ignored: nothing is ever held back'
complete -c zpipe -n '__zpipe_in cat' -l explain -d 'Show plan and outcome on standard error'
complete -c zpipe -n '__zpipe_in cat' -l dry-run -d 'Show the plan'
complete -c zpipe -n '__zpipe_in cat' -l json -d 'Report in JSON Lines on standard error'
complete -c zpipe -n '__zpipe_in cat' -l json-fd -x -d 'JSON Lines on fd N'
complete -c zpipe -n '__zpipe_in cat' -l progress -x -a 'auto always never' -d 'On a terminal after a second, always, or never'
complete -c zpipe -n '__zpipe_in cat' -s q -l quiet -d 'No progress'
complete -c zpipe -n '__zpipe_in cat' -l help -d 'Show this message and exit'

complete -c zpipe -n '__zpipe_in tee' -s a -l append -d 'Add to the end of files (O_APPEND)'
complete -c zpipe -n '__zpipe_in tee' -s i -l ignore-interrupts -d 'Ignore SIGINT'
complete -c zpipe -n '__zpipe_in tee' -s p -d 'The same as --output-error=warn-nopipe'
complete -c zpipe -n '__zpipe_in tee' -l output-error -f -a 'warn warn-nopipe exit exit-nopipe' -d 'When an output fails: tell of it and go on (warn), or end (exit)'
complete -c zpipe -n '__zpipe_in tee' -l no-stdout -d 'Leave standard output alone'
complete -c zpipe -n '__zpipe_in tee' -l split-size -x -d 'Begin a new file after so many bytes: part-%04d.bin'
complete -c zpipe -n '__zpipe_in tee' -l when-full -x -a 'block detach spill' -d 'When an output, standard output too, takes no more'
complete -c zpipe -n '__zpipe_in tee' -l detach-after -x -d 'With detach: drop an output that takes nothing for so long (5s)'
complete -c zpipe -n '__zpipe_in tee' -l spill-max -x -d 'Spill at most so much for each output (1G)'
complete -c zpipe -n '__zpipe_in tee' -l spill-dir -x -a '(__zpipe_folders)' -d 'Spill to files in DIR (TMPDIR, or /var/tmp)'
complete -c zpipe -n '__zpipe_in tee' -l spill-then -x -a 'block detach' -d 'When so much is spilled already (block)'
complete -c zpipe -n '__zpipe_in tee' -l via -x -a 'reflink parallel copy_range sendfile splice mapped direct plain tee' -d 'Move by this mover, or fail'
complete -c zpipe -n '__zpipe_in tee' -l no-via -x -a 'reflink parallel copy_range sendfile splice mapped direct plain tee' -d 'Never by this one'
complete -c zpipe -n '__zpipe_in tee' -l stable -d 'Clone or copy what would go by reference'
complete -c zpipe -n '__zpipe_in tee' -l rate-limit -x -d 'Bytes per second, at the most (no limit)'
complete -c zpipe -n '__zpipe_in tee' -l stall-timeout -x -d 'Give up when nothing moves for so long (never)'
complete -c zpipe -n '__zpipe_in tee' -l pipe-size -x -d 'Capacity of the private pipe, 4K to 2G (1M)'
complete -c zpipe -n '__zpipe_in tee' -l explain -d 'Show plan and outcome on standard error'
complete -c zpipe -n '__zpipe_in tee' -l dry-run -d 'Show the plan'
complete -c zpipe -n '__zpipe_in tee' -l json -d 'Report in JSON Lines on standard error'
complete -c zpipe -n '__zpipe_in tee' -l json-fd -x -d 'JSON Lines on fd N'
complete -c zpipe -n '__zpipe_in tee' -l progress -x -a 'auto always never' -d 'On a terminal after a second, always, or never'
complete -c zpipe -n '__zpipe_in tee' -s q -l quiet -d 'No progress'
complete -c zpipe -n '__zpipe_in tee' -l help -d 'Show this message and exit'

complete -c zpipe -n '__zpipe_in proxy' -l listen -x -a '(__zpipe_ends listen)' -d 'Listen at HOST:PORT, :PORT, unix:PATH, fd:N or fd:NAME'
complete -c zpipe -n '__zpipe_in proxy' -l stdio -d 'Join standard input and output with an UPSTREAM'
complete -c zpipe -n '__zpipe_in proxy' -l accept-proxy -f -a 'optional required' -d 'Clients begin with a PROXY header, version 1 or 2 (required), or may (optional)'
complete -c zpipe -n '__zpipe_in proxy' -l trust-proxy -x -d 'Take such a header from these addresses only, such as 10.0.0.0/8'
complete -c zpipe -n '__zpipe_in proxy' -l workers -x -d 'So many processes share the connections, 1 to 256 (1)'
complete -c zpipe -n '__zpipe_in proxy' -l user -x -a '(__fish_complete_users)' -d 'Go on as this user once it listens'
complete -c zpipe -n '__zpipe_in proxy' -l group -x -a '(__fish_complete_groups)' -d 'And as this group (that of the user)'
complete -c zpipe -n '__zpipe_in proxy' -l balance -x -a 'round-robin least-conn first source' -d 'Which UPSTREAM is next'
complete -c zpipe -n '__zpipe_in proxy' -l retries -x -d 'Try so many others when one cannot be connected to, 0 to 100 (2)'
complete -c zpipe -n '__zpipe_in proxy' -l check -x -d 'Connect to each every so often, and keep to those that answer'
complete -c zpipe -n '__zpipe_in proxy' -l resolve-interval -x -d 'Resolve names again after so long'
complete -c zpipe -n '__zpipe_in proxy' -l route-sni -x -d 'TLS clients that ask for NAME, or *.NAME, go to this one'
complete -c zpipe -n '__zpipe_in proxy' -l route-default -x -a '(__zpipe_ends upstream)' -d 'All others go to this one'
complete -c zpipe -n '__zpipe_in proxy' -l send-proxy -x -a 'v1 v2' -d 'Tell upstreams of the client in a PROXY header: v1 or v2'
complete -c zpipe -n '__zpipe_in proxy' -l mirror -x -a '(__zpipe_ends upstream)' -d 'Send a copy to ADDR, which may end in ?KEY=VALUE&'
complete -c zpipe -n '__zpipe_in proxy' -l capture -x -a '(__zpipe_folders)' -d 'Record each connection in DIR, for zpipe replay'
complete -c zpipe -n '__zpipe_in proxy' -l capture-max -x -d 'Keep so much'
complete -c zpipe -n '__zpipe_in proxy' -l max-connections -x -d 'So many at once (what fds allow)'
complete -c zpipe -n '__zpipe_in proxy' -l when-full -x -a 'refuse queue' -d 'More than that are closed (refuse), or wait to be accepted (queue, the default)'
complete -c zpipe -n '__zpipe_in proxy' -l per-source -x -d 'So many at once from one address (no limit)'
complete -c zpipe -n '__zpipe_in proxy' -l rate-limit -x -d 'Bytes per second of each connection, at the most (no limit)'
complete -c zpipe -n '__zpipe_in proxy' -l total-rate-limit -x -d 'And of all together (no limit)'
complete -c zpipe -n '__zpipe_in proxy' -l allow -x -d 'Serve these addresses only, such as 10.0.0.0/8 or ::1'
complete -c zpipe -n '__zpipe_in proxy' -l deny -x -d 'Do not serve these'
complete -c zpipe -n '__zpipe_in proxy' -l connect-timeout -x -d 'Longest wait for an UPSTREAM (5s)'
complete -c zpipe -n '__zpipe_in proxy' -l idle-timeout -x -d 'End a connection in which nothing moves for so long (never)'
complete -c zpipe -n '__zpipe_in proxy' -l half-closed-timeout -x -d 'End a connection of which one side has ended, when nothing moves for so long'
complete -c zpipe -n '__zpipe_in proxy' -l max-lifetime -x -d 'End every connection after so long (never)'
complete -c zpipe -n '__zpipe_in proxy' -l opening-timeout -x -d 'Longest wait for a PROXY header or a ClientHello (5s)'
complete -c zpipe -n '__zpipe_in proxy' -l drain-timeout -x -d 'On SIGTERM, wait so long for connections to end (30s)'
complete -c zpipe -n '__zpipe_in proxy' -l exit-idle-time -x -d 'End after so long without a connection (never)'
complete -c zpipe -n '__zpipe_in proxy' -l no-splice -d 'Read and write only'
complete -c zpipe -n '__zpipe_in proxy' -l pipe-size -x -d 'Capacity of the pipes that splice uses, 4K to 2G (1M)'
complete -c zpipe -n '__zpipe_in proxy' -l access-log -r -F -d 'A line for each connection'
complete -c zpipe -n '__zpipe_in proxy' -l access-format -x -a 'text json' -d 'The form of those lines (text)'
complete -c zpipe -n '__zpipe_in proxy' -l metrics -x -a '(__zpipe_ends listen)' -d 'Serve /metrics (Prometheus) and /healthz there'
complete -c zpipe -n '__zpipe_in proxy' -l progress -x -a 'auto always never' -d 'On a terminal, always, or never'
complete -c zpipe -n '__zpipe_in proxy' -s q -l quiet -d 'Errors only'
complete -c zpipe -n '__zpipe_in proxy' -l help -d 'Show this message and exit'

complete -c zpipe -n '__zpipe_in status' -s w -l watch -d 'Show it again and again, with rates'
complete -c zpipe -n '__zpipe_in status' -l interval -x -d 'With --watch: the time between two looks (1s)'
complete -c zpipe -n '__zpipe_in status' -l json -d 'Print a JSON object in a line for each proxy'
complete -c zpipe -n '__zpipe_in status' -l help -d 'Show this message and exit'

complete -c zpipe -n '__zpipe_in replay' -l id -x -d 'Only this connection'
complete -c zpipe -n '__zpipe_in replay' -l pace -x -a 'original fast' -d 'At the times of the capture'
complete -c zpipe -n '__zpipe_in replay' -l speed -x -d 'Divide the times of the original pace by this, as 2 or 0.5 (1)'
complete -c zpipe -n '__zpipe_in replay' -s j -l jobs -x -d 'Connections at a time at the fast pace, 1 to 99999 (1)'
complete -c zpipe -n '__zpipe_in replay' -l compare -d 'Compare the answers'
complete -c zpipe -n '__zpipe_in replay' -l timeout -x -d 'Give up a connection on which nothing moves for so long (5s)'
complete -c zpipe -n '__zpipe_in replay' -l json -d 'Report in JSON Lines on standard error'
complete -c zpipe -n '__zpipe_in replay' -s q -l quiet -d 'No summary'
complete -c zpipe -n '__zpipe_in replay' -l help -d 'Show this message and exit'

complete -c zpipe -n '__zpipe_in run' -s p -x -d 'A parameter of the recipe'
complete -c zpipe -n '__zpipe_in run' -l explain -d 'Show plan and outcome on standard error'
complete -c zpipe -n '__zpipe_in run' -l dry-run -d 'Show the plan'
complete -c zpipe -n '__zpipe_in run' -l json -d 'Report in JSON Lines on standard error'
complete -c zpipe -n '__zpipe_in run' -l json-fd -x -d 'JSON Lines on fd N'
complete -c zpipe -n '__zpipe_in run' -l progress -x -a 'auto always never' -d 'On a terminal after a second, always, or never'
complete -c zpipe -n '__zpipe_in run' -s q -l quiet -d 'No progress'
complete -c zpipe -n '__zpipe_in run' -l report -r -F -d 'Write the JSON Lines to FILE, too'
complete -c zpipe -n '__zpipe_in run' -l help -d 'Show this message and exit'

complete -c zpipe -n '__zpipe_in check' -s p -x -d 'A parameter of the recipe'
complete -c zpipe -n '__zpipe_in check' -l json -d 'Print what was found as a JSON document'
complete -c zpipe -n '__zpipe_in check' -l schema -d 'Print the JSON Schema of recipes, and no more'
complete -c zpipe -n '__zpipe_in check' -l help -d 'Show this message and exit'

complete -c zpipe -n '__zpipe_in graph' -s p -x -d 'A parameter of the recipe'
complete -c zpipe -n '__zpipe_in graph' -l format -x -a 'text mermaid dot svg' -d 'How to draw it (what the name of the OUTPUT says, or text)'
complete -c zpipe -n '__zpipe_in graph' -s o -l output -r -F -d 'Write to this file'
complete -c zpipe -n '__zpipe_in graph' -l report -r -F -d 'Draw what happened: the JSON Lines of zpipe run'
complete -c zpipe -n '__zpipe_in graph' -l help -d 'Show this message and exit'

complete -c zpipe -n '__zpipe_in plan' -s p -x -d 'A parameter of the recipe'
complete -c zpipe -n '__zpipe_in plan' -l json -d 'Print the plan as a JSON document'
complete -c zpipe -n '__zpipe_in plan' -l help -d 'Show this message and exit'

complete -c zpipe -n '__zpipe_in bench' -l suite -x -a 'techniques broker peers' -d 'The ways of zpipe itself'
complete -c zpipe -n '__zpipe_in bench' -l sizes -x -d 'How many bytes at a time, 1 to 1T, such as 512,64K,1G'
complete -c zpipe -n '__zpipe_in bench' -l routes -x -a '(__zpipe_some file-file file-tcp file-pipe tcp-tcp pipe-pipes)' -d 'From where to where: file-file, file-tcp, file-pipe, tcp-tcp, pipe-pipes'
complete -c zpipe -n '__zpipe_in bench' -l techniques -x -a '(__zpipe_some read+write mmap+write sendfile splice copy_file_range reflink O_DIRECT tee)' -d 'Only these'
complete -c zpipe -n '__zpipe_in bench' -l outputs -x -d 'Pipes of pipe-pipes, 2 to 64 (3)'
complete -c zpipe -n '__zpipe_in bench' -l seconds -x -d 'Take no longer than this (20s)'
complete -c zpipe -n '__zpipe_in bench' -l dir -x -a '(__zpipe_folders)' -d 'Where files are written and read (TMPDIR, or /var/tmp)'
complete -c zpipe -n '__zpipe_in bench' -l json -d 'Print a JSON document, with every round'
complete -c zpipe -n '__zpipe_in bench' -l csv -d 'Print a row of comma-separated values for each cell'
complete -c zpipe -n '__zpipe_in bench' -l plot -r -F -d 'Draw rate and processor time by size, as .svg or .png'
complete -c zpipe -n '__zpipe_in bench' -l help -d 'Show this message and exit'

complete -c zpipe -n '__zpipe_in doctor' -l json -d 'Print what was found as a JSON document'
complete -c zpipe -n '__zpipe_in doctor' -l help -d 'Show this message and exit'

complete -c zpipe -n '__zpipe_in completion' -l help -d 'Show this message and exit'
# end: tables
