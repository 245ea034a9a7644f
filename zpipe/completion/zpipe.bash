# Completion of zpipe for bash 4.4 and later; `man zpipe-completion` tells where it goes.
#
# It rests on nothing but bash, so that it is the same with and without bash-completion. The line
# is split here: readline breaks words at : and =, which are parts of addresses and options.
# Functions set variables of their callers: nothing is printed, and no process is started but where
# the names of programs, users or shipped recipes are asked for.
#
# The tables are renewed by .ci/completion.py; the rest is by hand.

# begin: tables
__zpipe_options() {
  case $1 in
    '')
      options='--debug --version --help'
      ;;
    cp)
      options='-t --to --target-directory -r -R --recursive -a --archive -p --preserve --preserve=
        --no-preserve -d -L --dereference -P --no-dereference -H -n --no-clobber -u --update
        --update= -i --interactive -f --force --remove-destination -T --no-target-directory -l
        --link -s --symbolic-link --parents -x --one-file-system -v --verbose --exclude --sparse
        --reflink --reflink= --verify --checksum-file --resume -j --jobs --executor --offset
        --length --append --inplace --sync --via --no-via --stable --rate-limit --stall-timeout
        --pipe-size --lease --when-full --detach-after --spill-max --spill-dir --spill-then
        --explain --dry-run --json --json-fd --progress -q --quiet --json-files --help'
      ;;
    cat)
      options='--bytes --count --buffer --hash --hash-file --via --no-via --stable --rate-limit
        --stall-timeout --pipe-size --stats --size --name --interval -u --explain --dry-run --json
        --json-fd --progress -q --quiet --help'
      ;;
    tee)
      options='-a --append -i --ignore-interrupts -p --output-error --output-error= --no-stdout
        --split-size --when-full --detach-after --spill-max --spill-dir --spill-then --via
        --no-via --stable --rate-limit --stall-timeout --pipe-size --explain --dry-run --json
        --json-fd --progress -q --quiet --help'
      ;;
    proxy)
      options='--listen --stdio --accept-proxy --accept-proxy= --trust-proxy --workers --user
        --group --balance --retries --check --resolve-interval --route-sni --route-default
        --send-proxy --mirror --capture --capture-max --max-connections --when-full --per-source
        --rate-limit --total-rate-limit --allow --deny --connect-timeout --idle-timeout
        --half-closed-timeout --max-lifetime --opening-timeout --drain-timeout --exit-idle-time
        --no-splice --pipe-size --access-log --access-format --metrics --progress -q --quiet
        --help'
      ;;
    status)
      options='-w --watch --interval --json --help'
      ;;
    replay)
      options='--id --pace --speed -j --jobs --compare --timeout --json -q --quiet --help'
      ;;
    run)
      options='-p --explain --dry-run --json --json-fd --progress -q --quiet --report --help'
      ;;
    check)
      options='-p --json --schema --help'
      ;;
    graph)
      options='-p --format -o --output --report --help'
      ;;
    plan)
      options='-p --json --help'
      ;;
    bench)
      options='--suite --sizes --routes --techniques --outputs --seconds --dir --json --csv --plot
        --help'
      ;;
    doctor)
      options='--json --help'
      ;;
    completion)
      options='--help'
      ;;
  esac
}

__zpipe_value() {
  value=
  case $1 in
    cp)
      case $2 in
        -t | --to | --target-directory)
          value='sink'
          ;;
        --preserve)
          value='bare some mode ownership timestamps links xattr context all'
          ;;
        --no-preserve)
          value='some mode ownership timestamps links xattr context all'
          ;;
        --update)
          value='bare one all older none'
          ;;
        --exclude)
          value='nothing'
          ;;
        --sparse)
          value='one auto always never'
          ;;
        --reflink)
          value='bare one auto always never'
          ;;
        --checksum-file)
          value='file'
          ;;
        -j | --jobs)
          value='nothing'
          ;;
        --executor)
          value='one processes threads dask: mpi'
          ;;
        --offset)
          value='nothing'
          ;;
        --length)
          value='nothing'
          ;;
        --via)
          value='one reflink parallel copy_range sendfile splice mapped direct plain tee'
          ;;
        --no-via)
          value='one reflink parallel copy_range sendfile splice mapped direct plain tee'
          ;;
        --rate-limit)
          value='nothing'
          ;;
        --stall-timeout)
          value='nothing'
          ;;
        --pipe-size)
          value='nothing'
          ;;
        --when-full)
          value='one block detach spill'
          ;;
        --detach-after)
          value='nothing'
          ;;
        --spill-max)
          value='nothing'
          ;;
        --spill-dir)
          value='folder'
          ;;
        --spill-then)
          value='one block detach'
          ;;
        --json-fd)
          value='nothing'
          ;;
        --progress)
          value='one auto always never'
          ;;
      esac
      ;;
    cat)
      case $2 in
        --bytes | --count)
          value='nothing'
          ;;
        --buffer)
          value='nothing'
          ;;
        --hash)
          value='one blake2b blake2s md5 sha1 sha224 sha256 sha384 sha3_224 sha3_256 sha3_384
            sha3_512 sha512'
          ;;
        --hash-file)
          value='file'
          ;;
        --via)
          value='one reflink parallel copy_range sendfile splice mapped direct plain tee'
          ;;
        --no-via)
          value='one reflink parallel copy_range sendfile splice mapped direct plain tee'
          ;;
        --rate-limit)
          value='nothing'
          ;;
        --stall-timeout)
          value='nothing'
          ;;
        --pipe-size)
          value='nothing'
          ;;
        --size)
          value='nothing'
          ;;
        --name)
          value='nothing'
          ;;
        --interval)
          value='nothing'
          ;;
        --json-fd)
          value='nothing'
          ;;
        --progress)
          value='one auto always never'
          ;;
      esac
      ;;
    tee)
      case $2 in
        --output-error)
          value='bare one warn warn-nopipe exit exit-nopipe'
          ;;
        --split-size)
          value='nothing'
          ;;
        --when-full)
          value='one block detach spill'
          ;;
        --detach-after)
          value='nothing'
          ;;
        --spill-max)
          value='nothing'
          ;;
        --spill-dir)
          value='folder'
          ;;
        --spill-then)
          value='one block detach'
          ;;
        --via)
          value='one reflink parallel copy_range sendfile splice mapped direct plain tee'
          ;;
        --no-via)
          value='one reflink parallel copy_range sendfile splice mapped direct plain tee'
          ;;
        --rate-limit)
          value='nothing'
          ;;
        --stall-timeout)
          value='nothing'
          ;;
        --pipe-size)
          value='nothing'
          ;;
        --json-fd)
          value='nothing'
          ;;
        --progress)
          value='one auto always never'
          ;;
      esac
      ;;
    proxy)
      case $2 in
        --listen)
          value='listen'
          ;;
        --accept-proxy)
          value='bare one optional required'
          ;;
        --trust-proxy)
          value='nothing'
          ;;
        --workers)
          value='nothing'
          ;;
        --user)
          value='user'
          ;;
        --group)
          value='group'
          ;;
        --balance)
          value='one round-robin least-conn first source'
          ;;
        --retries)
          value='nothing'
          ;;
        --check)
          value='nothing'
          ;;
        --resolve-interval)
          value='nothing'
          ;;
        --route-sni)
          value='nothing'
          ;;
        --route-default)
          value='upstream'
          ;;
        --send-proxy)
          value='one v1 v2'
          ;;
        --mirror)
          value='upstream'
          ;;
        --capture)
          value='folder'
          ;;
        --capture-max)
          value='nothing'
          ;;
        --max-connections)
          value='nothing'
          ;;
        --when-full)
          value='one refuse queue'
          ;;
        --per-source)
          value='nothing'
          ;;
        --rate-limit)
          value='nothing'
          ;;
        --total-rate-limit)
          value='nothing'
          ;;
        --allow)
          value='nothing'
          ;;
        --deny)
          value='nothing'
          ;;
        --connect-timeout)
          value='nothing'
          ;;
        --idle-timeout)
          value='nothing'
          ;;
        --half-closed-timeout)
          value='nothing'
          ;;
        --max-lifetime)
          value='nothing'
          ;;
        --opening-timeout)
          value='nothing'
          ;;
        --drain-timeout)
          value='nothing'
          ;;
        --exit-idle-time)
          value='nothing'
          ;;
        --pipe-size)
          value='nothing'
          ;;
        --access-log)
          value='file'
          ;;
        --access-format)
          value='one text json'
          ;;
        --metrics)
          value='listen'
          ;;
        --progress)
          value='one auto always never'
          ;;
      esac
      ;;
    status)
      case $2 in
        --interval)
          value='nothing'
          ;;
      esac
      ;;
    replay)
      case $2 in
        --id)
          value='nothing'
          ;;
        --pace)
          value='one original fast'
          ;;
        --speed)
          value='nothing'
          ;;
        -j | --jobs)
          value='nothing'
          ;;
        --timeout)
          value='nothing'
          ;;
      esac
      ;;
    run)
      case $2 in
        -p)
          value='nothing'
          ;;
        --json-fd)
          value='nothing'
          ;;
        --progress)
          value='one auto always never'
          ;;
        --report)
          value='file'
          ;;
      esac
      ;;
    check)
      case $2 in
        -p)
          value='nothing'
          ;;
      esac
      ;;
    graph)
      case $2 in
        -p)
          value='nothing'
          ;;
        --format)
          value='one text mermaid dot svg'
          ;;
        -o | --output)
          value='file'
          ;;
        --report)
          value='file'
          ;;
      esac
      ;;
    plan)
      case $2 in
        -p)
          value='nothing'
          ;;
      esac
      ;;
    bench)
      case $2 in
        --suite)
          value='one techniques broker peers'
          ;;
        --sizes)
          value='nothing'
          ;;
        --routes)
          value='some file-file file-tcp file-pipe tcp-tcp pipe-pipes'
          ;;
        --techniques)
          value='some read+write mmap+write sendfile splice copy_file_range reflink O_DIRECT tee'
          ;;
        --outputs)
          value='nothing'
          ;;
        --seconds)
          value='nothing'
          ;;
        --dir)
          value='folder'
          ;;
        --plot)
          value='file'
          ;;
      esac
      ;;
  esac
}

__zpipe_operands() {
  operands=
  case $1 in
    bench) operands='' ;;
    cat) operands='source ...' ;;
    check) operands='recipe ...' ;;
    completion) operands='shell' ;;
    cp) operands='source end ...' ;;
    doctor) operands='file ...' ;;
    graph) operands='recipe' ;;
    plan) operands='plan' ;;
    proxy) operands='upstream ...' ;;
    replay) operands='folder upstream' ;;
    run) operands='recipe' ;;
    status) operands='upstream' ;;
    tee) operands='sink ...' ;;
  esac
}

__zpipe_words() {
  words=
  case $1 in
    source)
      words='file: fd: pipe: tcp:// tcp-listen:// unix: unix-listen: exec: null: zero: pattern:'
      ;;
    sink)
      words='file: fd: pipe: tcp:// tcp-listen:// unix: unix-listen: exec: null: pattern: hash:'
      ;;
    end)
      words='file: fd: pipe: tcp:// tcp-listen:// unix: unix-listen: exec: null: zero: pattern:
        hash:'
      ;;
    listen)
      words='unix: fd:'
      ;;
    upstream)
      words='unix:'
      ;;
    commands)
      words='cp cat tee proxy status replay run check graph plan bench doctor completion'
      ;;
    planned)
      words='cp cat tee proxy'
      ;;
    digests)
      words='blake2b blake2s md5 sha1 sha224 sha256 sha384 sha3_224 sha3_256 sha3_384 sha3_512
        sha512'
      ;;
    shells)
      words='bash zsh fish'
      ;;
  esac
}
# end: tables

# Complete the word at the cursor; $2 is that part of it which readline is going to replace.
_zpipe() {
  local - IFS=$' \t\n'
  set -f +eux
  COMPREPLY=()
  local -a line=() names=() paths=()
  local quote tilde expands kept
  __zpipe_split "${2-}"

  # what stands before the cursor
  local command= option= ended= taken=0 last=$((${#line[@]} - 1)) word value place
  for ((place = 1; place < last; place++)); do
    word=${line[place]}
    if [[ $option ]]; then
      option=
    elif [[ ! $ended && $word == -- ]]; then
      ended=1
    elif [[ ! $ended && $word == -?* ]]; then
      __zpipe_await "$word"
    elif [[ ! $command ]]; then
      command=$word
    elif [[ $command == plan && $taken == 0 ]] && __zpipe_plans "$word"; then
      command=$word
    else
      ((++taken))
    fi
  done

  # and what the word at the cursor is
  local prefix= rest=${line[last]} options words kind delegated=
  if [[ $option ]]; then
    __zpipe_value "$command" "$option"
    __zpipe_complete $value
  elif [[ ! $ended && $rest == --*=* ]]; then
    prefix=${rest%%=*}=
    rest=${rest#*=}
    __zpipe_value "$command" "${prefix%=}"
    __zpipe_complete ${value#bare }
  elif [[ ! $ended && $rest == -* ]]; then
    __zpipe_options "$command"
    __zpipe_add $options
  elif [[ ! $command ]]; then
    __zpipe_words commands
    __zpipe_add $words
  else
    __zpipe_turn
    __zpipe_complete $kind
  fi
  __zpipe_reply
}

# Split the line up to the cursor at blanks, without its quotes, into `line`. Of the last word,
# `quote` is the one that is open; `tilde` and `expands`: it begins with a tilde, or has what bash
# would replace; `kept`: so many of its letters stand before $1, which readline replaces.
__zpipe_split() {
  local text=${COMP_LINE:0:COMP_POINT} letter next word= begun= place cut
  cut=$((${#text} - ${#1}))
  quote= tilde= expands= kept=
  for ((place = 0; place < ${#text}; place++)); do
    [[ $kept ]] || ((place < cut)) || kept=${#word}
    letter=${text:place:1}
    if [[ ! $quote && $letter == [$' \t\n'] ]]; then
      [[ ! $begun ]] || line+=("$word")
      word= begun= tilde= expands= kept=
      continue
    fi
    if [[ $letter == "$quote" ]]; then
      quote=
    elif [[ $quote == "'" ]]; then
      word+=$letter
    elif [[ $letter == \\ ]]; then
      next=${text:place+1:1}
      [[ ! $quote || $next == [\"\\\$\`] ]] || word+=$letter
      word+=$next
      ((++place))
    elif [[ ! $quote && $letter == [\"\'] ]]; then
      quote=$letter
    else
      [[ $letter != [\$\`] ]] || expands=1
      [[ $quote || $begun || $letter != '~' ]] || tilde=1
      word+=$letter
    fi
    begun=1
  done
  line+=("$word")
  [[ $kept ]] || kept=${#word}
}

# Note in `option` which of the options in a word has the next word for its value.
__zpipe_await() {
  local letter
  if [[ $1 == --* ]]; then
    [[ $1 != *=* ]] || return 0
    __zpipe_value "$command" "$1"
    [[ ! $value || $value == bare* ]] || option=$1
    return 0
  fi
  for ((letter = 1; letter < ${#1}; letter++)); do
    __zpipe_value "$command" "-${1:letter:1}"
    [[ $value ]] || continue
    ((letter + 1 < ${#1})) || option=-${1:letter:1}
    return 0
  done
}

# Tell whether `zpipe plan` takes a word for the name of a command.
__zpipe_plans() {
  local words
  __zpipe_words planned
  [[ " "${words//[$'\n']/ }" " == *" $1 "* ]]
}

# Set `kind` to that of the operand whose turn it is; empty: there is none.
__zpipe_turn() {
  local operands
  __zpipe_operands "$command"
  local -a kinds=($operands)
  local places=${#kinds[@]}
  if ((places)) && [[ ${kinds[places - 1]} == ... ]]; then
    ((taken < places - 1)) || taken=$((places - 2))
  fi
  kind=${kinds[taken]-}
}

# Collect what a word of this kind may be, of what begins with `rest`.
__zpipe_complete() {
  local words
  case ${1-} in
    one) __zpipe_add "${@:2}" ;;
    some) __zpipe_add_some "${@:2}" ;;
    shell)
      __zpipe_words shells
      __zpipe_add $words
      ;;
    plan)
      __zpipe_words planned
      __zpipe_add $words
      __zpipe_add_paths recipe
      ;;
    user) __zpipe_add $(compgen -u -- "$rest") ;;
    group) __zpipe_add $(compgen -g -- "$rest") ;;
    file | folder | recipe) __zpipe_add_paths "$1" ;;
    source | sink | end | listen | upstream) __zpipe_add_ends "$1" ;;
  esac
}

__zpipe_add() {
  local word
  for word; do
    [[ $word != "$rest"* ]] || names+=("$prefix$word")
  done
}

# Collect the words that are not yet among those with commas between them.
__zpipe_add_some() {
  local word given=
  [[ $rest != *,* ]] || given=${rest%,*},
  for word; do
    [[ ",$given" == *",$word,"* || $given$word != "$rest"* ]] || names+=("$prefix$given$word")
  done
  compopt -o nospace 2>/dev/null
}

__zpipe_add_ends() {
  local words
  case $1:$rest in
    listen:unix:* | upstream:unix:*) __zpipe_add_behind ;;
    listen:* | upstream:*)
      __zpipe_words "$1"
      __zpipe_add $words
      ;;
    *:file:* | *:pipe:* | *:unix:* | *:unix-listen:*) __zpipe_add_behind ;;
    *:exec:*/*) __zpipe_add_behind ;;
    *:exec:?*)
      prefix+=exec:
      rest=${rest#exec:}
      __zpipe_add $(compgen -c -- "$rest")
      ;;
    sink:hash:* | end:hash:*)
      prefix+=hash:
      rest=${rest#hash:}
      __zpipe_words digests
      __zpipe_add $words
      ;;
    *)
      __zpipe_words "$1"
      __zpipe_add $words
      [[ $rest == *://* ]] || __zpipe_add_paths file
      ;;
  esac
}

# Collect the paths behind a scheme.
__zpipe_add_behind() {
  prefix+=${rest%%:*}:
  rest=${rest#*:}
  tilde=
  __zpipe_add_paths file
}

# Collect the files that begin with `rest`, as far as they are of a kind, and the folders.
__zpipe_add_paths() {
  local path begin=$rest unglobbed=
  [[ ! $prefix ]] || tilde=
  if [[ $expands || ($tilde && $rest != '~/'*) ]]; then
    delegated=1
    return
  fi
  [[ ! $tilde ]] || begin=$HOME/${rest#'~/'}
  if shopt -q failglob; then
    unglobbed=1
    shopt -u failglob
  fi
  set +f
  for path in "$begin"*; do
    if [[ -d $path ]]; then
      path+=/
    elif [[ ! -e $path && ! -L $path || $1 == folder ]]; then
      continue
    elif [[ $1 == recipe && $path != *.yaml && $path != *.yml ]]; then
      continue
    fi
    [[ ! $tilde ]] || path="~/${path#"$HOME/"}"
    paths+=("$prefix$path")
  done
  if [[ $1 == recipe && ${#paths[@]} == 0 && $rest != */* ]]; then
    path=$(type -P -- "${line[0]}") && path=$(readlink -f -- "$path") &&
      for path in "${path%/bin/*}/share/zpipe/recipes/$rest"*.yaml; do
        [[ ! -f $path ]] || paths+=("$path")
      done
  fi
  set -f
  [[ ! $unglobbed ]] || shopt -s failglob
}

# Hand over what was collected. Readline quotes paths; beside words they are quoted here.
__zpipe_reply() {
  local each
  if [[ $delegated ]]; then
    compopt -o default 2>/dev/null
    return
  fi
  if ((${#names[@]} == 0)); then
    compopt -o filenames 2>/dev/null
  fi
  for each in "${names[@]}"; do
    COMPREPLY+=("${each:kept}")
  done
  for each in "${paths[@]}"; do
    each=${each:kept}
    if ((${#names[@]})); then
      case $quote in
        '') printf -v each %q "$each" ;;
        '"') each=${each//[\\\"\$\`]/\\&} ;;
      esac
    fi
    COMPREPLY+=("$each")
  done
  if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[/:=] ]]; then
    compopt -o nospace 2>/dev/null
  fi
}

complete -F _zpipe zpipe
