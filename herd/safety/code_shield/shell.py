"""What a shell command would do: allow, ask or block, with the reason. Every part of a line is judged, also inside quotes that a
second shell runs, substitutions and here-documents; the worst part decides.

A command that is not known is asked about. Nothing is run or looked up: this reads the text alone, so variables that hide a
program's name make it unknown, hence asked about.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herd.safety.code_shield.shell_words import RUNNERS, SHELLS, Command, parse

VERDICTS = ("allow", "ask", "block")


@dataclass(frozen=True)
class Verdict:
    """`action` is allow, ask or block; `reason` says what the command would do."""

    action: str
    reason: str


_INNER = re.compile(r"(?<!\\)\$\(([^()]*(?:\([^()]*\)[^()]*)*)\)|`([^`]*)`|[<>]\(([^()]*)\)")
_SECRET = re.compile(
    r"(?i)(?:\.ssh/(?:id_|\*|$)|id_rsa|id_ed25519|\.aws/|\.azure/|\.config/gcloud|\.gnupg|\.kube/config|\.docker/config|\.netrc|\.pgpass|\.npmrc|\.pypirc"
    r"|\.git-credentials|(?:^|/|@|=)\.env\b|/etc/(?:shadow|gshadow|sudoers)|credentials?(?:\.|$|/)|secrets?(?:\.|$|/)|\.bash_history|\.zsh_history|wallet\.dat|keychain|login\.keychain"
    r"|/proc/(?:self|\d+)/environ|private[_-]?key|\.pem\b|\.p12\b|\.kdbx\b|Cookies\b|logins\.json|shadow\b|passwords?\.(?:txt|csv)|\.vault|master\.key|service[_-]?account.*\.json|\.ssh/?$)"
)
_SYSTEM = re.compile(
    r"^(?:/|/\*|~|~/|~/\*|\$HOME/?\*?|\$\{HOME\}/?\*?|\*|\.|\./?\*|\.\.|/(?:etc|usr|var|home|boot|bin|sbin|lib|lib64|root|opt|dev|sys|proc|srv|Users|System|Library)(?:/\*?)?|/(?:var/(?:lib|log|www)|usr/(?:bin|lib|local)|home/\w+)/?\*?|C:\\.*|/\.\*)$"
)
_FETCH = {"curl", "wget", "fetch", "aria2c", "lynx", "http", "https", "iwr", "Invoke-WebRequest"}
_SENDERS = _FETCH | {
    "nc",
    "ncat",
    "netcat",
    "scp",
    "sftp",
    "rsync",
    "ftp",
    "tftp",
    "socat",
    "telnet",
    "mail",
    "mailx",
    "sendmail",
    "mutt",
    "rclone",
    "dig",
    "nslookup",
    "host",
    "ssh",
    "aws",
    "gsutil",
    "openssl",
}
_WORDS = tomllib.loads((Path(__file__).parent / "commands.toml").read_text(encoding="utf-8"))
_ALLOWED = frozenset(_WORDS["allowed"].split())
_PREFIXES = frozenset(_WORDS["prefixes"].split())


def judge_command(text: str) -> Verdict:
    """What a shell command line or script would do."""
    return _judge(text, 0)


def judge_call(name: str, arguments: Mapping[str, Any]) -> Verdict:
    """What a call of a tool would do: commands and code in its arguments, paths that it names, where it sends secrets."""
    worst = Verdict("allow", "nothing that changes or sends anything")
    for key, value in arguments.items():
        texts = value if isinstance(value, list) else [value]
        joined = " ".join(str(t) for t in texts)
        if re.search(r"(?i)^(?:cmd|command|commands|script|shell|bash|args|argv)$", key):
            worst = _worse(worst, judge_command(joined))
        elif re.search(r"(?i)(?:path|file|filename|target|source)", key):
            if _SECRET.search(joined):
                worst = _worse(worst, Verdict("block", f"{name} touches secrets: {joined[:80]}"))
            elif ".." in joined or joined.startswith(("/etc", "/root", "/proc", "/sys", "/dev", "~")):
                worst = _worse(worst, Verdict("ask", f"{name} leaves the working folder: {joined[:80]}"))
        elif re.search(r"(?i)(?:url|uri|endpoint|host)", key) and re.search(
            r"(?i)^(?:file|gopher|dict|ftp)://|169\.254\.169\.254|metadata\.google|//(?:localhost|127\.|0\.0\.0\.0|10\.|192\.168\.|\[::1\])",
            joined,
        ):
            worst = _worse(worst, Verdict("block", f"{name} reaches into the machine or its network: {joined[:80]}"))
        if isinstance(value, str) and re.search(
            r"(?is)\b(?:drop|truncate)\s+(?:table|database)\b|\bdelete\s+from\s+\w+\s*;?\s*$", value
        ):
            worst = _worse(worst, Verdict("ask", f"{name} deletes data"))
    if re.search(r"(?i)(?:delete|remove|drop|send|transfer|pay|purchase|wire|publish|deploy|grant|invite|share)", name):
        worst = _worse(worst, Verdict("ask", f"{name} cannot be taken back"))
    return worst


def _worse(a: Verdict, b: Verdict) -> Verdict:
    return b if VERDICTS.index(b.action) > VERDICTS.index(a.action) else a


def _judge(text: str, depth: int) -> Verdict:
    if depth > 6 or len(text) > 100_000:
        return Verdict("ask", "too long or too deeply nested to judge")
    worst = Verdict("allow", "nothing that changes or sends anything beyond the working folder")
    for pattern, reason in _WHOLE:
        if pattern.search(text):
            return Verdict("block", reason)
    downloaded: set[str] = set()
    for command in parse(text):
        worst = _worse(worst, _judge_one(command, downloaded, depth))
        for inner in _INNER.finditer(command.text):
            worst = _worse(worst, _judge(inner[1] or inner[2] or inner[3] or "", depth + 1))
    return worst


# What is recognized in the text as a whole, since it spans commands.
_WHOLE = [
    (re.compile(r"(?:^|[^\w]):?\(\)\s*\{\s*:?\s*\|\s*:?\s*&\s*\}|(\w+)\(\)\s*\{\s*\1\s*\|\s*\1\s*&\s*\}"), "starts processes without end"),
    (re.compile(r"/dev/(?:tcp|udp)/"), "opens a shell or a channel to another machine"),
    (re.compile(r"\b(?:nc|ncat|netcat)\b[^\n|;]*\s(?:-\w*e\w*|-c|--exec|--sh-exec)\s|\bsocat\b[^\n]*\b(?:exec|system):|\bmkfifo\b[\s\S]{0,200}\b(?:nc|ncat|telnet|openssl)\b"), "hands a shell to another machine"),
    (re.compile(r"\bsocket\b[\s\S]{0,300}\b(?:dup2|pty\.spawn|subprocess|/bin/(?:ba)?sh)|fsockopen\([\s\S]{0,200}\bexec\(|TCPSocket[\s\S]{0,200}\bexec\b|use Socket[\s\S]{0,300}\bexec\b"), "hands a shell to another machine"),
    (re.compile(r"(?:\b(?:curl|wget)\b[^\n|;&]*\|\s*|\bbase64\s+(?:-d|-D|--decode)[^\n;&]*\|\s*|\bxxd\s+-r[^\n;&]*\|\s*|\brev\s*\|\s*|\btr\b[^\n|]*\|\s*|\bgunzip\b[^\n|]*\|\s*)(?:\w+\s*\|\s*)?(?:sudo\s+(?:-\S+\s+)*)?(?:\S*/)?(?:ba|z|da|k|fi|a)?sh\b"), "runs text that it fetched or hid"),
    (re.compile(r"\b(?:curl|wget)\b[^\n;&]*\|\s*(?:sudo\s+(?:-\S+\s+)*)?(?:\S*/)?(?:python[23]?|perl|ruby|node|php|pwsh|osascript)\b"), "runs text that it fetched"),
    (re.compile(r"\b(?:(?:ba|z|da|k|a|fi)?sh|eval|source|python[23]?|perl|node)\b\s+(?:-c\s+)?[\"']?(?:<\(|\$\(|`)\s*(?:curl|wget)\b"), "runs text that it fetched"),
    (re.compile(r"\b(?:exec|eval)\b\s*\(?[\s\S]{0,80}\b(?:urlopen|requests\.get|urllib|b64decode|fetch\(|Net::HTTP|file_get_contents\(.?http)"), "runs text that it fetched or hid"),
    (re.compile(r"\b(?:xmrig|minerd|cpuminer|stratum\+tcp|ethminer|cryptonight)\b"), "mines coins"),
    (re.compile(r"\bLD_PRELOAD=\S*/(?:tmp|dev/shm)|/etc/ld\.so\.preload"), "slips code into other programs"),
    (re.compile(r"\bhistory\s+-c\b|\bunset\s+HISTFILE\b|HISTFILE=/dev/null|HISTSIZE=0\b|\bshred\b[^\n]*(?:history|/var/log)|>\s*/var/log/|\bjournalctl\b[^\n]*--vacuum|\brm\b[^\n;|]*/var/log\b|ln\s+-sf?\s+/dev/null\s+\S*history"), "wipes traces"),
    (re.compile(r"\bIEX\b|\bInvoke-Expression\b|-[eE]nc(?:odedCommand)?\s+[A-Za-z0-9+/=]{20}|DownloadString\("), "runs text that it fetched or hid"),
    (re.compile(r"169\.254\.169\.254|metadata\.google\.internal"), "reads the credentials of the machine in the cloud"),
]  # fmt: skip


def _judge_one(command: Command, downloaded: set[str], depth: int) -> Verdict:
    words = list(command.words)
    worst = _judge_writes(command)
    root = False
    while words and (re.fullmatch(r"\w+\+?=.*", words[0], re.DOTALL) or words[0].rsplit("/", 1)[-1] in _PREFIXES):
        first = words.pop(0).rsplit("/", 1)[-1]
        if first in ("sudo", "doas"):
            root = True
            worst = _worse(worst, Verdict("ask", "runs with the rights of root"))
        while (
            first in _PREFIXES
            and words
            and (words[0].startswith("-") or (first in ("timeout", "nice") and re.match(r"[\d.]+[smh]?$", words[0])))
        ):
            option = words.pop(0)
            if (
                first in ("sudo", "xargs", "nice", "env", "timeout")
                and option in ("-u", "-g", "-n", "-I", "-P", "-L", "-d", "-k")
                and words
            ):
                words.pop(0)
            if first in ("sudo", "doas") and option in ("-i", "-s", "su"):
                worst = _worse(worst, Verdict("ask", "opens a shell of root"))
    if not words:
        return worst
    name = words[0].rsplit("/", 1)[-1]
    rest = words[1:]
    joined = " ".join(rest)
    for table in (_BLOCKED, _ASKED):
        for names, pattern, reason in table:
            if name in names and re.search(pattern, joined):
                worst = _worse(worst, Verdict("block" if table is _BLOCKED else "ask", reason))
    worst = _worse(worst, _removal(name, rest))
    worst = _worse(worst, _sending(name, joined, command))
    worst = _worse(worst, _running(name, words, downloaded, depth))
    if name in ("su",):
        worst = _worse(worst, Verdict("ask", "runs with the rights of another user"))
    if (
        _SECRET.search(joined)
        and name not in ("ls", "stat", "chmod", "ssh-keygen", "grep", "touch", "mkdir", "ssh", "echo", "git", "cp")
        and not joined.startswith(".env.example")
    ):
        strong = re.search(
            r"/etc/(?:g?shadow|sudoers)|id_rsa(?!\.pub)|id_ed25519(?!\.pub)|\.aws/cred|\.gnupg|environ|\.git-credentials|wallet|logins\.json|Cookies|\.kdbx",
            joined,
        )
        worst = _worse(worst, Verdict("block" if strong else "ask", "reads secrets"))
    if worst.action == "allow" and name not in _ALLOWED | _SENDERS and not _plain_script(words):
        worst = Verdict("ask", f"{name[:40]} is not known")
    return Verdict("ask", worst.reason) if root and worst.action == "allow" else worst


def _plain_script(words: list[str]) -> bool:
    return bool(re.fullmatch(r"\./[\w./-]+", words[0])) and "tmp" not in words[0]


# (names, what the arguments hold, what it does)
_BLOCKED = [
    ({"mkfs", "mkfs.ext4", "mkfs.xfs", "mke2fs", "wipefs", "fdisk", "parted", "sgdisk", "mkswap", "blkdiscard"}, r"/dev/", "destroys a disk"),
    ({"dd"}, r"\bof=/dev/(?:sd|nvme|hd|vd|mmcblk|disk|mem|kmem)", "destroys a disk"),
    ({"shred", "srm", "wipe"}, r"/dev/|^[^\n]*(?:/\*|~|/etc|/home)", "destroys files for good"),
    ({"chmod"}, r"(?:^|\s)(?:[ug]+\+\w*s|[2467][0-7]{3})\b", "gives a program the rights of its owner"),
    ({"chmod", "chown", "chgrp"}, r"-\w*R\w*\s.*\s(?:/|/etc|/usr|/var|/home|/bin|~|/\*|\$HOME)/?$", "changes the rights of the whole system"),
    ({"chmod"}, r"\b0?[67]?[67]77?[67]?\s+/etc\b|\b777\s+/(?:etc|usr|root|$)|\bo\+w\s+/etc|666\s+/etc", "opens system files to everybody"),
    ({"setcap", "setenforce"}, r"cap_|^0|Permissive", "takes rights that it does not have"),
    ({"usermod", "gpasswd", "adduser", "useradd"}, r"(?:sudo|wheel|admin|docker|root)\b|-\w*o\s+-u\s*0|-u\s*0\b", "makes somebody an administrator"),
    ({"passwd", "chpasswd"}, r"root|-d\b|^$|--delete", "changes the password of root"),
    ({"visudo", "insmod", "modprobe", "kexec", "nsenter"}, r"", "changes the system at its root"),
    ({"crontab"}, r"^-$|^/|^[\w.]+$|^-r", "makes itself start again, or takes away what starts"),
    ({"iptables", "ip6tables", "nft", "ufw", "pfctl"}, r"-F\b|--flush|flush|disable|-P\s+\w+\s+ACCEPT|-d$", "takes the firewall down"),
    ({"systemctl", "service", "launchctl"}, r"(?:stop|disable|mask)\s+(?:auditd|firewalld|apparmor|ufw|fail2ban|rsyslog|sshd?|falco|clamav\S*|iptables)|(?:auditd|firewalld|apparmor|ufw|fail2ban|rsyslog|falco)\s+stop|load\s+.*Launch", "switches protection off, or makes itself start again"),
    ({"kill", "killall", "pkill"}, r"-9\s+-1\b|(?:^|\s)-1$|-9\s+1$|-u\s+root", "ends every process"),
    ({"docker", "podman", "nerdctl"}, r"--privileged|-v\s*/:/|--volume[= ]/:/|/var/run/docker\.sock|--pid[= ]host", "leaves the container"),
    ({"mount", "umount"}, r"-o\s*\S*remount|/dev/sd|/proc|--bind", "changes what is mounted"),
    ({"ssh"}, r"-\w*R\s*\d+|-\w*D\s*\d+|StrictHostKeyChecking=no.*(?:rm|curl|wget)", "opens a way into the machine"),
    ({"git"}, r"config\s.*(?:core\.(?:sshCommand|pager|editor|hooksPath)|alias\.\w+\s+!)|-c\s+core\.(?:sshCommand|pager)|clone\s.*ext::", "lets git run another program"),
    ({"find"}, r"^(?:/|~|/home|/etc|/usr|/var|\$HOME)\s.*(?:-delete|-exec\s+(?:rm|shred|chmod))|-perm\s.*-exec\s+.*sh\b", "deletes across the system"),
    ({"tee"}, r"/etc/(?:sudoers|passwd|shadow|cron|ld\.so|profile|rc\.local|systemd|pam|hosts\b|ssh)|authorized_keys", "changes who may enter, or makes itself start again"),
    ({"cp", "mv", "ln", "install", "sed"}, r"(?:/etc/(?:sudoers|passwd|shadow|cron\S*|ld\.so\S*|profile\S*|rc\.local|systemd|pam\S*|init)|authorized_keys|LaunchAgents|LaunchDaemons|\.config/autostart|/usr/local/bin/sudo|/bin/\w+$)", "changes who may enter, or makes itself start again"),
    ({"mv"}, r"(?:^|\s)(?:/|~|\$HOME|/etc|/home|/usr|\*)/?\s+/dev/null", "destroys files"),
    ({"truncate"}, r"-s\s*0\s+/(?:etc|var|boot)", "empties system files"),
    ({"aws", "gcloud", "az"}, r"\bs3\s+(?:rb|rm)\b.*(?:--force|--recursive)|\bdelete\b.*--quiet|terminate-instances|iam\s+create-access-key|iam\s+attach|delete-(?:db|stack|bucket)", "deletes or takes over what runs in the cloud"),
    ({"kubectl"}, r"delete\s+(?:ns|namespace|--all|all)\b|--all-namespaces.*delete|delete\s.*--all\b", "deletes what runs in the cluster"),
    ({"terraform"}, r"destroy.*-auto-approve|apply.*-destroy", "deletes what runs in the cloud"),
    ({"psql", "mysql", "sqlite3", "mongo", "mongosh", "redis-cli", "mariadb"}, r"(?i)\bdrop\s+(?:database|table|schema)\b|\btruncate\s+table\b|\bflushall\b|dropDatabase|\bdelete\s+from\s+\w+\s*;?\s*$|to\s+program\b", "deletes data"),
    ({"tcpdump", "tshark", "ettercap", "arpspoof", "hydra", "john", "hashcat", "sqlmap", "msfconsole", "msfvenom", "nikto", "mimikatz", "linpeas.sh"}, r"", "listens to or attacks others"),
    ({"nmap", "masscan"}, r"", "looks for ways into other machines"),
    ({"at", "batch"}, r"", "runs something later, unseen"),
    ({"powershell", "pwsh"}, r"(?i)-enc|downloadstring|bypass|hidden", "runs text that it hid"),
    ({"gdb", "strace"}, r"-p\s*\d+|--pid", "reads the memory of another program"),
    ({"security"}, r"find-(?:generic|internet)-password|dump-keychain", "reads secrets"),
    ({"dscl", "csrutil", "spctl", "defaults"}, r"append\s.*admin|disable|master-disable|LoginHook", "takes rights or protection away"),
    ({"pip", "pip3", "npm", "gem", "cargo"}, r"(?:--index-url|--extra-index-url|--registry)[= ]http://|install\s+(?:git\+)?http://|--trusted-host", "installs from a place that nobody vouches for"),
]  # fmt: skip
_ASKED = [
    ({"git"}, r"^(?:push|reset\s+--hard|clean\s+-\w*f|checkout\s+(?:--\s|\.)|rebase|filter-branch|branch\s+-D|stash\s+(?:drop|clear)|remote\s+(?:add|set-url)|config\s+--global|tag\s+-d|restore\b|am\b)", "changes what cannot be brought back, or what others see"),
    ({"gh"}, r"^(?:pr\s+(?:merge|close|create)|repo\s+(?:delete|create|edit)|release|secret|auth|api\s.*-X)", "changes what others see"),
    ({"npm", "yarn", "pnpm", "pip", "pip3", "uv", "poetry", "gem", "cargo", "conda", "bundle", "composer", "go", "brew", "luarocks", "npx", "bunx"}, r"^(?:install|i\b|add|ci\b|publish|uninstall|remove|login|link|update|upgrade|get\b|create\b|global|pip\s+install|exec\b|-y\b|--yes)", "installs or publishes programs"),
    ({"npx", "bunx", "uvx", "pipx"}, r"^(?!tsc|eslint|prettier|jest|vitest|tsx|ruff)", "installs and runs a program"),
    ({"kubectl"}, r"^(?:apply|delete|edit|scale|exec|cp|drain|rollout|patch|create|replace|set)\b", "changes what runs in the cluster"),
    ({"terraform"}, r"^(?:apply|destroy|import|state)\b", "changes what runs in the cloud"),
    ({"docker-compose"}, r"^(?:up|down|rm|kill|exec)\b", "starts or ends services"),
    ({"sed", "perl"}, r"(?:^|\s)-\w*i", "changes files in place"),
    ({"find"}, r"-delete|-exec|-ok", "does something with each file found"),
    ({"psql", "mysql", "sqlite3", "mariadb"}, r"(?i)\b(?:delete|update|insert|alter|create|grant)\b", "changes data"),
    ({"cp", "mv", "ln", "mkdir", "touch", "tar", "unzip"}, r"(?:^|\s)(?:/(?!tmp|dev/null|work)|~|\.\./\.\.)|--absolute-names|-\w*P\b\s", "writes outside of the working folder"),
    ({"python", "python3", "node", "ruby", "perl", "php"}, r"\b(?:os\.system|subprocess|shutil\.rmtree|os\.remove|socket|urllib|requests|child_process|unlink|exec\(|eval\(|http)\b", "runs code that reaches further"),
    ({"awk", "gawk"}, r"\bsystem\s*\(|\|\s*getline", "runs other programs"),
    ({"tmux", "screen"}, r"send-keys|-dm", "runs something unseen"),
    ({"vim", "vi", "emacs"}, r"!|-c\b", "runs other programs"),
    ({"ip", "ifconfig"}, r"\b(?:add|del|set|down|up|flush)\b", "changes the network"),
    ({"hostname"}, r"^\w", "changes the machine's name"),
    ({"export", "alias"}, r"\b(?:PATH|LD_LIBRARY_PATH|sudo|ls|ssh)=", "changes which programs run"),
]  # fmt: skip


def _removal(name: str, rest: list[str]) -> Verdict:
    if name not in ("rm", "rmdir", "unlink", "del", "trash"):
        return Verdict("allow", "")
    options = "".join(w[1:] for w in rest if w.startswith("-") and not w.startswith("--"))
    targets = [w for w in rest if not w.startswith("-")]
    if "--no-preserve-root" in rest or (("r" in options or "R" in options) and any(_SYSTEM.match(t) for t in targets)):
        return Verdict("block", "deletes what the system or a user needs")
    if any(re.match(r"/(?:etc|usr|var|boot|bin|sbin|lib|root|home|dev)\b|~|\$HOME", t) for t in targets):
        return Verdict("block" if "r" in options.lower() else "ask", "deletes outside of the working folder")
    return Verdict("ask", "deletes files")


def _sending(name: str, joined: str, command: Command) -> Verdict:
    if name not in _SENDERS:
        return Verdict("allow", "")
    before = command.piped_from
    fed = ""
    while before is not None:
        fed += " " + before.text
        before = before.piped_from
    inner = " ".join(m[1] or m[2] or m[3] or "" for m in _INNER.finditer(command.text))
    if name in ("ssh", "scp", "rsync", "sftp"):  # the key that somebody logs in with stays here
        joined = re.sub(r"-i\s+\S+", "", joined)
    if any(_SECRET.search(part) for part in (joined, fed, inner)):
        return Verdict("block", "sends secrets away")
    if re.search(r"\b(?:env|printenv|set|history|compgen)\b", fed + " " + inner) and name in _FETCH | {
        "nc",
        "ncat",
        "netcat",
        "mail",
    }:
        return Verdict("block", "sends the environment away")
    if name in _FETCH and re.search(
        r"(?:\s|^)(?:-d|--data\S*|-F|--form|-T|--upload-file|--post-(?:file|data))[= ]?\s*\S*@|--post-file|--upload-file|\s-T\s|--body-file",
        " " + joined,
    ):
        return Verdict("block" if re.search(r"@/|@~|@\.\.|/etc/|\.ssh|\$HOME", joined) else "ask", "sends files away")
    if (
        fed
        and name in ("nc", "ncat", "netcat", "curl", "wget", "openssl", "telnet")
        and not re.search(r"localhost|127\.0\.0\.1", joined)
    ):
        heavy = re.search(r"\b(?:tar|cat|find|mysqldump|pg_dump|dd|zip|base64|gzip)\b", fed)
        if name != "openssl":
            return Verdict("block" if heavy else "ask", "sends what it reads away")
    if name in ("dig", "nslookup", "host") and inner:
        return Verdict("block", "sends what it reads away by name look-ups")
    if name in ("dig", "nslookup", "host"):
        return Verdict("allow", "")
    if name in _FETCH and re.fullmatch(
        r"(?:-\S+\s+|GET\s+)*(?:https?://)?(?:localhost|127\.0\.0\.1|\[::1\])(?::\d+)?(?:/\S*)?", joined
    ):
        return Verdict("allow", "asks this machine")
    if name == "openssl" and not re.search(r"s_client|s_server", joined):
        return (
            Verdict("allow", "")
            if re.match(r"(?:version|rand|dgst|x509|verify|sha256|md5|req\b.*-noout|asn1parse)", joined)
            else Verdict("ask", "makes or reads keys")
        )
    return Verdict("ask", "reaches other machines")


def _running(name: str, words: list[str], downloaded: set[str], depth: int) -> Verdict:
    """Text that a second shell runs, and files that were fetched a moment ago."""
    rest = words[1:]
    if name in _FETCH:
        for i, word in enumerate(rest):
            if word in ("-o", "-O", "--output", "--output-document") and i + 1 < len(rest):
                downloaded.add(rest[i + 1].lstrip("./"))
            elif word.startswith(("http://", "https://", "ftp://")):
                downloaded.add(word.rsplit("/", 1)[-1])
    if any(
        w.lstrip("./") in downloaded for w in words if w and (w.startswith("./") or name in RUNNERS or w is words[0])
    ):
        return Verdict("block", "runs a program that it just fetched")
    if name == "eval":
        return _worse(Verdict("ask", "runs text as a command"), _judge(" ".join(rest), depth + 1))
    if name in SHELLS | {"su", "ssh", "script"}:
        worst = Verdict("allow", "")
        for i, word in enumerate(rest):
            if word.startswith("\0"):
                worst = _worse(worst, _judge(word[1:], depth + 1))
            elif re.fullmatch(r"-\w*c", word) and i + 1 < len(rest):
                return _worse(worst, _judge(rest[i + 1], depth + 1))
        if name == "ssh" and len(rest) > 1:
            worst = _worse(
                worst, _judge(" ".join(w for w in rest if not w.startswith("-"))[:5000].split(" ", 1)[-1], depth + 1)
            )
        scripts = [w for w in rest if not w.startswith(("-", "\0"))]
        if any(s.startswith(("/tmp", "/dev/shm", "/var/tmp")) for s in scripts):
            return _worse(worst, Verdict("ask", "runs a script from a folder that everybody may write"))
        return worst if scripts or rest or name in ("su", "ssh") else _worse(worst, Verdict("ask", "opens a shell"))
    if words[0].startswith(("/tmp/", "/dev/shm/", "/var/tmp/")):
        return Verdict("ask", "runs a program from a folder that everybody may write")
    return Verdict("allow", "")


_WRITE_BLOCKED = re.compile(
    r"^/etc/(?:sudoers|passwd|shadow|cron|ld\.so|profile|rc\.local|systemd|pam|ssh|hosts)|^/var/spool/cron|authorized_keys$|^/dev/(?:sd|nvme|hd|vd|disk|mem)|^/boot|^/proc/(?:sys|sysrq)|LaunchAgents|LaunchDaemons|\.config/autostart|^/usr/(?:local/)?s?bin|^/s?bin|^/sys/"
)
_WRITE_ASKED = re.compile(
    r"(?:\.bashrc|\.zshrc|\.profile|\.bash_profile|\.bash_login|\.ssh/config|\.gitconfig|\.npmrc)$|^/(?!dev/null|dev/std|tmp/|dev/tty|work/)|^~|^\$HOME|^\.\./\.\."
)


def _judge_writes(command: Command) -> Verdict:
    worst = Verdict("allow", "")
    for target in command.writes:
        if _WRITE_BLOCKED.search(target):
            return Verdict("block", "changes who may enter, what starts, or the disk itself")
        if _WRITE_ASKED.search(target):
            again = re.search(r"\.(?:bashrc|zshrc|profile|bash_profile)$", target) and re.search(
                r"curl|wget|/dev/tcp|nc |python|&\s*$|base64", command.text
            )
            worst = (
                Verdict("block", "makes itself start again")
                if again
                else Verdict("ask", "writes outside of the working folder")
            )
    return worst
