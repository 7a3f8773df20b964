# shellcheck shell=bash
# Command line options, --key=value or --key value. Needs common.sh.
# shellcheck disable=SC2034 # the commands read what is set here

NAME=default ENGINE_WANTED='' PLAIN=0 OWNER='' MODE=fast ALL=0 ENVIRONMENT_WANTED=${ENVIRONMENT:-production}
SETTINGS=() REST=()

# parse ALLOWED ARGUMENT...: ALLOWED lists the options this command knows.
parse() {
    local allowed=" $1 " option value
    shift
    while (($#)); do
        option=${1%%=*}
        if [[ $allowed != *" $option "* ]]; then
            [[ $allowed == *" -- "* ]] || usage_error "unknown argument: $1"
            REST+=("$1")
            shift
            continue
        fi
        case $option in
            --plain | --all)
                [[ $1 == "$option" ]] || usage_error "$option takes no value"
                if [[ $option == --all ]]; then ALL=1; else PLAIN=1; fi
                ;;
            *)
                if [[ $1 == *=* ]]; then
                    value=${1#*=}
                else
                    (($# > 1)) || usage_error "$option needs a value"
                    value=$2
                    shift
                fi
                take_option "$option" "$value"
                ;;
        esac
        shift
    done
}

take_option() {
    case $1 in
        --name)
            valid_name "$2" || usage_error "--name: letters, digits, '.', '_' and '-' only"
            NAME=$2
            ;;
        --engine)
            [[ $2 == pg1[78] ]] || usage_error "--engine: pg17 or pg18"
            ENGINE_WANTED=$2
            ;;
        --owner-pid)
            [[ $2 =~ ^[1-9][0-9]*$ ]] || usage_error "--owner-pid: a process id"
            OWNER=$2
            ;;
        --mode)
            [[ $2 == fast || $2 == immediate ]] || usage_error "--mode: fast or immediate"
            MODE=$2
            ;;
        --environment)
            ENVIRONMENT_WANTED=$2
            ;;
        --set)
            [[ $2 =~ ^[A-Za-z_][A-Za-z0-9_.]*=[^$'\n']*$ ]] || usage_error "--set: key=value"
            [[ ${2%%=*} != port ]] || usage_error "--set: the port is chosen anew each time"
            SETTINGS+=("${2//\'/\'\'}")
            ;;
    esac
}
