#compdef zpipe

# Completion of zpipe for zsh 5.1 and later; `man zpipe-completion` tells where it goes.
#
# The tables are renewed by .ci/completion.py; the rest is by hand. Functions of the tables set
# arrays of their callers.

# begin: tables
_zpipe_specs_of() {
  specs=()
  case $1 in
    '')
      specs=(
        '(--debug)--debug[Show where an internal error arose]'
        '(--version)--version[Print the version and exit]'
        '(--help)--help[Show this message and exit]'
      )
      ;;
    cp)
      specs=(
        '*-t+[Copy to DST]:DST: _zpipe_end sink'
        '*--to=[Copy to DST]:DST: _zpipe_end sink'
        '*--target-directory=[Copy to DST]:DST: _zpipe_end sink'
        '(-r -R --recursive)-r[Copy directories, with all that is in them]'
        '(-r -R --recursive)-R[Copy directories, with all that is in them]'
        '(-r -R --recursive)--recursive[Copy directories, with all that is in them]'
        '(-a --archive)-a[As -dR --preserve=all]'
        '(-a --archive)--archive[As -dR --preserve=all]'
        '(-p)-p[As --preserve=mode,ownership,timestamps]'
        '*--preserve=-[Keep attributes]::ATTRS: _zpipe_some mode ownership timestamps links xattr context all'
        '*--no-preserve=[Do not keep these]:ATTRS: _zpipe_some mode ownership timestamps links xattr context all'
        '(-d)-d[As -P --preserve=links]'
        '(-L --dereference)-L[Follow symbolic links]'
        '(-L --dereference)--dereference[Follow symbolic links]'
        '(-P --no-dereference)-P[Copy symbolic links as links]'
        '(-P --no-dereference)--no-dereference[Copy symbolic links as links]'
        '(-H)-H[Follow those that are operands]'
        '(-n --no-clobber)-n[Leave files that exist]'
        '(-n --no-clobber)--no-clobber[Leave files that exist]'
        '(-u)-u[Leave files that are not older than SRC]'
        '(--update)--update=-[Replace all files, older ones, or none]::WHICH:(all older none)'
        '(-i --interactive)-i[Ask before a file is replaced]'
        '(-i --interactive)--interactive[Ask before a file is replaced]'
        '(-f --force)-f[Replace files that cannot be opened for writing]'
        '(-f --force)--force[Replace files that cannot be opened for writing]'
        '(--remove-destination)--remove-destination[Remove a target before, links too]'
        '(-T --no-target-directory)-T[DST is never a directory to copy into]'
        '(-T --no-target-directory)--no-target-directory[DST is never a directory to copy into]'
        '(-l --link)-l[Make hard links instead of copies]'
        '(-l --link)--link[Make hard links instead of copies]'
        '(-s --symbolic-link)-s[Make symbolic links instead of copies]'
        '(-s --symbolic-link)--symbolic-link[Make symbolic links instead of copies]'
        '(--parents)--parents[Give SRC its whole path below DST]'
        '(-x --one-file-system)-x[Stay on the filesystem of SRC]'
        '(-x --one-file-system)--one-file-system[Stay on the filesystem of SRC]'
        '(-v --verbose)-v[Name each file on standard output]'
        '(-v --verbose)--verbose[Name each file on standard output]'
        '*--exclude=[Leave out names, or with a slash paths below SRC, that match]:GLOB: '
        '(--sparse)--sparse=[Keep holes (auto), make them of zeros, or fill them]:choice:(auto always never)'
        '(--reflink)--reflink=-[Share blocks where that goes (auto), always, or never]::WHEN:(auto always never)'
        '(--verify)--verify[Read DST back from the disk, and compare]'
        '(--checksum-file)--checksum-file=[Write a line for sha256sum -c per file]:FILE:_files'
        '(--resume)--resume[Keep a journal, and go on where one ends]'
        '(-j --jobs)-j+[Copy by N workers at once, 1 to 256 (as many as processors, 8 at the most)]:N: '
        '(-j --jobs)--jobs=[Copy by N workers at once, 1 to 256 (as many as processors, 8 at the most)]:N: '
        '(--executor)--executor=[Copy by processes, threads, MODULE:FACTORY, dask:ADDRESS or mpi (processes)]:NAME: _zpipe_one processes threads dask\: mpi'
        '(--offset)--offset=[Begin at this byte of the source]:size: '
        '(--length)--length=[Stop after this many bytes]:size: '
        '(--append)--append[Add to the end of DST (O_APPEND), in place]'
        '(--inplace)--inplace[Truncate DST and write to it, as cp does]'
        '(--sync)--sync[Make DST durable (fsync) before saying that it is done]'
        '(--via)--via=[Move by this mover, or fail]:MOVER:(reflink parallel copy_range sendfile splice mapped direct plain tee)'
        '*--no-via=[Never by this one]:MOVER:(reflink parallel copy_range sendfile splice mapped direct plain tee)'
        '(--stable)--stable[Clone or copy what would go by reference]'
        '(--rate-limit)--rate-limit=[Bytes per second, at the most (no limit)]:rate: '
        '(--stall-timeout)--stall-timeout=[Give up when nothing moves for so long (never)]:time: '
        '(--pipe-size)--pipe-size=[Capacity of the private pipe, 4K to 2G (1M)]:size: '
        '(--lease)--lease[Hold writers off the source while it is read]'
        '(--when-full)--when-full=[When an output, standard output too, takes no more]:choice:(block detach spill)'
        '(--detach-after)--detach-after=[With detach: drop an output that takes nothing for so long (5s)]:time: '
        '(--spill-max)--spill-max=[Spill at most so much for each output (1G)]:size: '
        '(--spill-dir)--spill-dir=[Spill to files in DIR (TMPDIR, or /var/tmp)]:DIR:_files -/'
        '(--spill-then)--spill-then=[When so much is spilled already (block)]:choice:(block detach)'
        '(--explain)--explain[Show plan and outcome on standard error]'
        '(--dry-run)--dry-run[Show the plan]'
        '(--json)--json[Report in JSON Lines on standard error]'
        '(--json-fd)--json-fd=[JSON Lines on fd N]:N: '
        '(--progress)--progress=[On a terminal after a second, always, or never]:choice:(auto always never)'
        '(-q --quiet)-q[No progress]'
        '(-q --quiet)--quiet[No progress]'
        '(--json-files)--json-files[With --json: a record for each file, too]'
        '(--help)--help[Show this message and exit]'
        '1:source: _zpipe_end source'
        '*:end: _zpipe_end end'
      )
      ;;
    cat)
      specs=(
        '(--bytes --count)--bytes=[Stop after this many bytes]:size: '
        '(--bytes --count)--count=[Stop after this many bytes]:size: '
        '(--buffer)--buffer=[Read ahead of the output by so much]:size: '
        '*--hash=[Print on standard error the digest of what passes]:ALG:(blake2b blake2s md5 sha1 sha224 sha256 sha384 sha3_224 sha3_256 sha3_384 sha3_512 sha512)'
        '(--hash-file)--hash-file=[Write the digest there instead]:FILE:_files'
        '(--via)--via=[Move by this mover, or fail]:MOVER:(reflink parallel copy_range sendfile splice mapped direct plain tee)'
        '*--no-via=[Never by this one]:MOVER:(reflink parallel copy_range sendfile splice mapped direct plain tee)'
        '(--stable)--stable[Clone or copy what would go by reference]'
        '(--rate-limit)--rate-limit=[Bytes per second, at the most (no limit)]:rate: '
        '(--stall-timeout)--stall-timeout=[Give up when nothing moves for so long (never)]:time: '
        '(--pipe-size)--pipe-size=[Capacity of the private pipe, 4K to 2G (1M)]:size: '
        '(--stats)--stats[At the end: bytes, rates, and the slow side]'
        '(--size)--size=[How many bytes to expect, for the display]:size: '
        '(--name)--name=[What the display calls it (SRC -> output)]:TEXT: '
        '(--interval)--interval=[Time between two looks of display and stats (1s, on a terminal 0.2s)]:time: '
        '(-u)-u[Ignored: nothing is ever held back]'
        '(--explain)--explain[Show plan and outcome on standard error]'
        '(--dry-run)--dry-run[Show the plan]'
        '(--json)--json[Report in JSON Lines on standard error]'
        '(--json-fd)--json-fd=[JSON Lines on fd N]:N: '
        '(--progress)--progress=[On a terminal after a second, always, or never]:choice:(auto always never)'
        '(-q --quiet)-q[No progress]'
        '(-q --quiet)--quiet[No progress]'
        '(--help)--help[Show this message and exit]'
        '*:source: _zpipe_end source'
      )
      ;;
    tee)
      specs=(
        '(-a --append)-a[Add to the end of files (O_APPEND)]'
        '(-a --append)--append[Add to the end of files (O_APPEND)]'
        '(-i --ignore-interrupts)-i[Ignore SIGINT]'
        '(-i --ignore-interrupts)--ignore-interrupts[Ignore SIGINT]'
        '(-p)-p[The same as --output-error=warn-nopipe]'
        '(--output-error)--output-error=-[When an output fails: tell of it and go on (warn), or end (exit)]::MODE:(warn warn-nopipe exit exit-nopipe)'
        '(--no-stdout)--no-stdout[Leave standard output alone]'
        '(--split-size)--split-size=[Begin a new file after so many bytes: part-%04d.bin]:size: '
        '(--when-full)--when-full=[When an output, standard output too, takes no more]:choice:(block detach spill)'
        '(--detach-after)--detach-after=[With detach: drop an output that takes nothing for so long (5s)]:time: '
        '(--spill-max)--spill-max=[Spill at most so much for each output (1G)]:size: '
        '(--spill-dir)--spill-dir=[Spill to files in DIR (TMPDIR, or /var/tmp)]:DIR:_files -/'
        '(--spill-then)--spill-then=[When so much is spilled already (block)]:choice:(block detach)'
        '(--via)--via=[Move by this mover, or fail]:MOVER:(reflink parallel copy_range sendfile splice mapped direct plain tee)'
        '*--no-via=[Never by this one]:MOVER:(reflink parallel copy_range sendfile splice mapped direct plain tee)'
        '(--stable)--stable[Clone or copy what would go by reference]'
        '(--rate-limit)--rate-limit=[Bytes per second, at the most (no limit)]:rate: '
        '(--stall-timeout)--stall-timeout=[Give up when nothing moves for so long (never)]:time: '
        '(--pipe-size)--pipe-size=[Capacity of the private pipe, 4K to 2G (1M)]:size: '
        '(--explain)--explain[Show plan and outcome on standard error]'
        '(--dry-run)--dry-run[Show the plan]'
        '(--json)--json[Report in JSON Lines on standard error]'
        '(--json-fd)--json-fd=[JSON Lines on fd N]:N: '
        '(--progress)--progress=[On a terminal after a second, always, or never]:choice:(auto always never)'
        '(-q --quiet)-q[No progress]'
        '(-q --quiet)--quiet[No progress]'
        '(--help)--help[Show this message and exit]'
        '*:sink: _zpipe_end sink'
      )
      ;;
    proxy)
      specs=(
        '*--listen=[Listen at HOST:PORT, :PORT, unix:PATH, fd:N or fd:NAME]:addr: _zpipe_end listen'
        '(--stdio)--stdio[Join standard input and output with an UPSTREAM]'
        '(--accept-proxy)--accept-proxy=-[Clients begin with a PROXY header, version 1 or 2 (required), or may (optional)]::MODE:(optional required)'
        '*--trust-proxy=[Take such a header from these addresses only, such as 10.0.0.0/8]:cidr: '
        '(--workers)--workers=[So many processes share the connections, 1 to 256 (1)]:n: '
        '(--user)--user=[Go on as this user once it listens]:USER:_users'
        '(--group)--group=[And as this group (that of the user)]:GROUP:_groups'
        '(--balance)--balance=[Which UPSTREAM is next]:HOW:(round-robin least-conn first source)'
        '(--retries)--retries=[Try so many others when one cannot be connected to, 0 to 100 (2)]:n: '
        '(--check)--check=[Connect to each every so often, and keep to those that answer]:KEY=VALUE,...: '
        '(--resolve-interval)--resolve-interval=[Resolve names again after so long]:time: '
        '*--route-sni=[TLS clients that ask for NAME, or *.NAME, go to this one]:NAME=UPSTREAM: '
        '*--route-default=[All others go to this one]:upstream: _zpipe_end upstream'
        '(--send-proxy)--send-proxy=[Tell upstreams of the client in a PROXY header: v1 or v2]:VERSION:(v1 v2)'
        '*--mirror=[Send a copy to ADDR, which may end in ?KEY=VALUE&]:ADDR: _zpipe_end upstream'
        '(--capture)--capture=[Record each connection in DIR, for zpipe replay]:DIR:_files -/'
        '(--capture-max)--capture-max=[Keep so much]:size: '
        '(--max-connections)--max-connections=[So many at once (what fds allow)]:n: '
        '(--when-full)--when-full=[More than that are closed (refuse), or wait to be accepted (queue, the default)]:choice:(refuse queue)'
        '(--per-source)--per-source=[So many at once from one address (no limit)]:n: '
        '(--rate-limit)--rate-limit=[Bytes per second of each connection, at the most (no limit)]:rate: '
        '(--total-rate-limit)--total-rate-limit=[And of all together (no limit)]:rate: '
        '*--allow=[Serve these addresses only, such as 10.0.0.0/8 or ::1]:cidr: '
        '*--deny=[Do not serve these]:cidr: '
        '(--connect-timeout)--connect-timeout=[Longest wait for an UPSTREAM (5s)]:time: '
        '(--idle-timeout)--idle-timeout=[End a connection in which nothing moves for so long (never)]:time: '
        '(--half-closed-timeout)--half-closed-timeout=[End a connection of which one side has ended, when nothing moves for so long]:time: '
        '(--max-lifetime)--max-lifetime=[End every connection after so long (never)]:time: '
        '(--opening-timeout)--opening-timeout=[Longest wait for a PROXY header or a ClientHello (5s)]:time: '
        '(--drain-timeout)--drain-timeout=[On SIGTERM, wait so long for connections to end (30s)]:time: '
        '(--exit-idle-time)--exit-idle-time=[End after so long without a connection (never)]:time: '
        '(--no-splice)--no-splice[Read and write only]'
        '(--pipe-size)--pipe-size=[Capacity of the pipes that splice uses, 4K to 2G (1M)]:size: '
        '(--access-log)--access-log=[A line for each connection]:FILE:_files'
        '(--access-format)--access-format=[The form of those lines (text)]:choice:(text json)'
        '(--metrics)--metrics=[Serve /metrics (Prometheus) and /healthz there]:addr: _zpipe_end listen'
        '(--progress)--progress=[On a terminal, always, or never]:choice:(auto always never)'
        '(-q --quiet)-q[Errors only]'
        '(-q --quiet)--quiet[Errors only]'
        '(--help)--help[Show this message and exit]'
        '*:upstream: _zpipe_end upstream'
      )
      ;;
    status)
      specs=(
        '(-w --watch)-w[Show it again and again, with rates]'
        '(-w --watch)--watch[Show it again and again, with rates]'
        '(--interval)--interval=[With --watch: the time between two looks (1s)]:time: '
        '(--json)--json[Print a JSON object in a line for each proxy]'
        '(--help)--help[Show this message and exit]'
        '1:upstream: _zpipe_end upstream'
      )
      ;;
    replay)
      specs=(
        '*--id=[Only this connection]:ID: '
        '(--pace)--pace=[At the times of the capture]:choice:(original fast)'
        '(--speed)--speed=[Divide the times of the original pace by this, as 2 or 0.5 (1)]:factor: '
        '(-j --jobs)-j+[Connections at a time at the fast pace, 1 to 99999 (1)]:n: '
        '(-j --jobs)--jobs=[Connections at a time at the fast pace, 1 to 99999 (1)]:n: '
        '(--compare)--compare[Compare the answers]'
        '(--timeout)--timeout=[Give up a connection on which nothing moves for so long (5s)]:time: '
        '(--json)--json[Report in JSON Lines on standard error]'
        '(-q --quiet)-q[No summary]'
        '(-q --quiet)--quiet[No summary]'
        '(--help)--help[Show this message and exit]'
        '1:folder:_files -/'
        '2:upstream: _zpipe_end upstream'
      )
      ;;
    run)
      specs=(
        '*-p+[A parameter of the recipe]:NAME=VALUE: '
        '(--explain)--explain[Show plan and outcome on standard error]'
        '(--dry-run)--dry-run[Show the plan]'
        '(--json)--json[Report in JSON Lines on standard error]'
        '(--json-fd)--json-fd=[JSON Lines on fd N]:N: '
        '(--progress)--progress=[On a terminal after a second, always, or never]:choice:(auto always never)'
        '(-q --quiet)-q[No progress]'
        '(-q --quiet)--quiet[No progress]'
        '(--report)--report=[Write the JSON Lines to FILE, too]:FILE:_files'
        '(--help)--help[Show this message and exit]'
        '1:recipe: _zpipe_recipes'
      )
      ;;
    check)
      specs=(
        '*-p+[A parameter of the recipe]:NAME=VALUE: '
        '(--json)--json[Print what was found as a JSON document]'
        '(--schema)--schema[Print the JSON Schema of recipes, and no more]'
        '(--help)--help[Show this message and exit]'
        '*:recipe: _zpipe_recipes'
      )
      ;;
    graph)
      specs=(
        '*-p+[A parameter of the recipe]:NAME=VALUE: '
        '(--format)--format=[How to draw it (what the name of the OUTPUT says, or text)]:choice:(text mermaid dot svg)'
        '(-o --output)-o+[Write to this file]:OUTPUT:_files'
        '(-o --output)--output=[Write to this file]:OUTPUT:_files'
        '(--report)--report=[Draw what happened: the JSON Lines of zpipe run]:REPORT:_files'
        '(--help)--help[Show this message and exit]'
        '1:recipe: _zpipe_recipes'
      )
      ;;
    plan)
      specs=(
        '*-p+[A parameter of the recipe]:NAME=VALUE: '
        '(--json)--json[Print the plan as a JSON document]'
        '(--help)--help[Show this message and exit]'
        '1:plan: _zpipe_planned'
      )
      ;;
    bench)
      specs=(
        '(--suite)--suite=[The ways of zpipe itself]:choice:(techniques broker peers)'
        '(--sizes)--sizes=[How many bytes at a time, 1 to 1T, such as 512,64K,1G]:sizes: '
        '(--routes)--routes=[From where to where: file-file, file-tcp, file-pipe, tcp-tcp, pipe-pipes]:names: _zpipe_some file-file file-tcp file-pipe tcp-tcp pipe-pipes'
        '(--techniques)--techniques=[Only these]:names: _zpipe_some read+write mmap+write sendfile splice copy_file_range reflink O_DIRECT tee'
        '(--outputs)--outputs=[Pipes of pipe-pipes, 2 to 64 (3)]:N: '
        '(--seconds)--seconds=[Take no longer than this (20s)]:time: '
        '(--dir)--dir=[Where files are written and read (TMPDIR, or /var/tmp)]:DIR:_files -/'
        '(--json)--json[Print a JSON document, with every round]'
        '(--csv)--csv[Print a row of comma-separated values for each cell]'
        '(--plot)--plot=[Draw rate and processor time by size, as .svg or .png]:FILE:_files'
        '(--help)--help[Show this message and exit]'
      )
      ;;
    doctor)
      specs=(
        '(--json)--json[Print what was found as a JSON document]'
        '(--help)--help[Show this message and exit]'
        '*:file:_files'
      )
      ;;
    completion)
      specs=(
        '(--help)--help[Show this message and exit]'
        '1:shell: _zpipe_words shells'
      )
      ;;
  esac
}

_zpipe_words_of() {
  words_of=()
  case $1 in
    source)
      words_of=(file: fd: pipe: tcp:// tcp-listen:// unix: unix-listen: exec: null: zero:
        pattern:)
      ;;
    sink)
      words_of=(file: fd: pipe: tcp:// tcp-listen:// unix: unix-listen: exec: null: pattern:
        hash:)
      ;;
    end)
      words_of=(file: fd: pipe: tcp:// tcp-listen:// unix: unix-listen: exec: null: zero: pattern:
        hash:)
      ;;
    listen)
      words_of=(unix: fd:)
      ;;
    upstream)
      words_of=(unix:)
      ;;
    commands)
      words_of=(cp cat tee proxy status replay run check graph plan bench doctor completion)
      ;;
    planned)
      words_of=(cp cat tee proxy)
      ;;
    digests)
      words_of=(blake2b blake2s md5 sha1 sha224 sha256 sha384 sha3_224 sha3_256 sha3_384 sha3_512
        sha512)
      ;;
    shells)
      words_of=(bash zsh fish)
      ;;
  esac
}

_zpipe_commands() {
  local -a commands=(
    'cp:Move one source to one sink, or to several'
    'cat:Write sources one after the other to standard output, and measure'
    'tee:Copy standard input to standard output and to every output'
    'proxy:Listen, relay connections to upstreams, and mirror what goes through'
    'status:Show how the proxies of this user do, or one by its --metrics address'
    'replay:Play captured connections back to an upstream, and compare the answers'
    'run:Carry out a recipe: its streams until done, its proxies until stopped'
    'check:Tell whether recipes are valid, and what is wrong with them and where'
    'graph:Draw what a recipe joins, as text, SVG, Mermaid or DOT'
    'plan:Show how the bytes of a recipe or a command would go, at what cost, and why'
    'bench:Measure ways of carrying bytes side by side, on this machine'
    'doctor:Find out what zpipe can do on this machine, and what is worth changing'
    'completion:Print the script by which bash, zsh or fish completes command lines'
  )
  _describe -t commands command commands
}
# end: tables

_zpipe() {
  local -a words_of specs
  if (( CURRENT > 2 )) && [[ $words[2] == --debug ]]; then
    words=("$words[1]" "${(@)words[3,-1]}")
    (( CURRENT-- ))
  fi
  _zpipe_specs_of ''
  local curcontext=$curcontext ret=1
  local -a line state state_descr
  local -A opt_args
  _arguments -C -S : $specs '1:command:_zpipe_commands' '*:: :->words' && ret=0
  if [[ $state == words ]]; then
    _zpipe_command && ret=0
  fi
  return ret
}

# Complete behind the name of a command, which is the first word.
_zpipe_command() {
  local command=$words[1]
  local -i place=2
  if [[ $command == plan ]]; then
    _zpipe_words_of planned
    while (( place < CURRENT )) && [[ $words[place] == -?* ]]; do
      # all options but this one stand alone
      [[ $words[place] == -p ]] && (( place++ ))
      (( place++ ))
    done
    if (( place < CURRENT && $words_of[(Ie)$words[place]] )); then
      words=("${(@)words[place,-1]}")
      (( CURRENT -= place - 1 ))
      command=$words[1]
    fi
  fi
  _zpipe_specs_of "$command"
  (( $#specs )) || return 1
  curcontext=${curcontext%:*:*}:zpipe-$command:
  _arguments -s -S : $specs
}

# Complete one of some words, which may go on.
_zpipe_one() {
  local expl
  local -a given=("$@")
  _wanted words expl word compadd -S '' -a - given
}

# Complete words with commas between them.
_zpipe_some() {
  _values -s , word "$@"
}

# Complete a word of the tables.
_zpipe_words() {
  local expl
  _zpipe_words_of $1
  _wanted words expl ${1%s} compadd -a - words_of
}

# Complete an address or a path.
_zpipe_end() {
  local expl kind=$1
  case $kind:$PREFIX in
    (listen|upstream):unix:*) ;;
    (listen|upstream):*)
      _zpipe_words_of $kind
      _wanted addresses expl address compadd -S '' -a - words_of
      return
      ;;
  esac
  if compset -P '(file|pipe|unix|unix-listen):'; then
    _files
  elif compset -P 'exec:'; then
    if [[ $PREFIX == */* ]]; then
      _files
    else
      _command_names -e
    fi
  elif [[ $kind != source ]] && compset -P 'hash:'; then
    _zpipe_words digests
  elif [[ $PREFIX != *://* ]]; then
    _zpipe_words_of $kind
    _alternative 'files:file:_files' "addresses:address:compadd -S '' -a - words_of"
  else
    return 1
  fi
}

# Complete a recipe; one that came with zpipe where no other begins so.
_zpipe_recipes() {
  local expl program
  _alternative \
    'recipes:recipe:_path_files -g "*.(yaml|yml)(-.)"' \
    'directories:directory:_path_files -/' && return
  [[ $PREFIX != */* ]] && program=${commands[zpipe]:A} || return 1
  local -a shipped=(${program%/bin/*}/share/zpipe/recipes/$PREFIX*.yaml(N))
  _wanted recipes expl 'recipe of zpipe' compadd -U -f -a - shipped
}

_zpipe_planned() {
  _alternative 'recipes:recipe: _zpipe_recipes' 'commands:command: _zpipe_words planned'
}

# In a folder of fpath it is the body of _zpipe; sourced, it declares it.
if [[ $funcstack[1] == _zpipe ]]; then
  _zpipe "$@"
elif (( $+functions[compdef] )); then
  compdef _zpipe zpipe
fi
