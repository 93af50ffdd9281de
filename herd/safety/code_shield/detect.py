"""Which language a piece of code is in, and the code inside Markdown."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fence:
    """A fenced piece of Markdown: its label in lower case, its code, and the line (from 1) where the code starts."""

    label: str
    code: str
    line: int


_FENCE = re.compile(r"^[ \t>]{0,12}(`{3,}|~{3,})[ \t]*([\w+#-]*)[^\n`]*$", re.MULTILINE)


def fences(text: str) -> list[Fence]:
    """The fenced pieces of a Markdown text in order; one that is still open ends with the text."""
    found, opened, line, last = [], None, 1, 0
    for match in _FENCE.finditer(text):
        line += text.count("\n", last, match.start())
        last = match.start()
        if opened is None:
            opened = (match[1], match[2].lower(), match.end() + 1, line + 1)
        elif match[1].startswith(opened[0]) and not match[2]:
            found.append(Fence(opened[1], text[opened[2] : match.start()], opened[3]))
            opened = None
    if opened is not None:
        found.append(Fence(opened[1], text[opened[2] :], opened[3]))
    return found


# Signs of each language with what one of them counts; the language with the most wins.
_SIGNS: dict[str, list[tuple[str, int]]] = {
    "python": [
        (r"(?m)^\s*def \w+\(.*\)\s*(?:->.*)?:\s*$", 4), (r"(?m)^\s*(?:from [\w.]+ import \w|import [\w.]+(?:, ?[\w.]+)*(?: as \w+)?\s*$)", 3), (r"(?m)^\s*(?:elif .*|else|try|except.*|with .* as \w+|class \w+(?:\(.*\))?|for \w+ in .*|if [^({].*):\s*$", 2),
        (r"\bself\.|\bNone\b|\bTrue\b|\bFalse\b|__\w+__", 1), (r"(?m)^@\w+(?:\.\w+)*(?:\(.*\))?\s*$", 1), (r"\bf\"|\bf'", 1), (r"(?m)^\s*print\(|\bos\.|\bsubprocess\.", 1),
    ],
    "javascript": [
        (r"\b(?:const|let)\s+[\w{\[][^=:\n]*=", 3), (r"=>\s*[{(\w]", 2), (r"\bfunction\s*\w*\s*\(", 2), (r"\brequire\(['\"]|\bmodule\.exports\b", 3), (r"===|!==|\bundefined\b|\bconsole\.log\(|\bdocument\.|\bwindow\.|\bprocess\.env\b", 2), (r"\breq\.(?:query|body|params|cookies)\b|\bres\.(?:send|json|render|redirect|cookie)\(|\bapp\.(?:get|post|use)\(", 3), (r"\bvar\s+\w+\s*=", 1), (r"(?m)^\s*(?:import .* from ['\"]|export (?:default|const|function|class)\b)", 2), (r"\bawait\b|\basync\b", 1),
    ],
    "typescript": [
        (r"\b(?:const|let)\s+\w+\s*:\s*[\w<>\[\]|]+\s*=", 4), (r"\(\s*(?:private |public |readonly )*\w+\??\s*:\s*(?:string|number|boolean|any|unknown|[A-Z]\w*(?:<[^>\n]*>)?)(?:\[\])?\s*[,)=]", 4), (r"\)\s*:\s*(?:Promise<|string|number|boolean|void|unknown|any|[A-Z]\w*(?:<.*>)?(?:\[\])?)\s*(?:=>|\{)", 4),
        (r"(?m)^\s*(?:export\s+)?(?:interface|type|enum)\s+\w+", 3), (r"\bas (?:string|unknown|any|const|\w+\[\])", 2), (r"(?m)^\s*import (?:type )?.* from ['\"]", 2), (r"=>\s*[{(\w]|===|\bconst\b", 1), (r"(?m)^\s*@\w+\([^)\n]*\)\s*$", 1), (r"\bReact\.FC\b|\bprivate \w+: \w+", 3),
    ],
    "java": [
        (r"\b(?:public|private|protected)\s+(?:static\s+|final\s+|abstract\s+|synchronized\s+)*[\w<>\[\], ]+\s+\w+\s*\([^)\n]*\)\s*(?:throws [\w, ]+)?\s*[{;]", 3), (r"(?m)^\s*import (?:static )?(?:java|javax|org|com)\.[\w.*]+;", 5), (r"\bSystem\.(?:out|err|getenv|in)\b", 3), (r"\bthrows \w+Exception", 3), (r"\b(?:String|int|boolean|List<\w+>|Map<.*>)\s+\w+\s*=\s*.*;", 2), (r"@Override|@GetMapping|@PostMapping|@Autowired|@RequestParam", 3), (r"\bnew \w+(?:<.*>)?\(", 1), (r"\bpackage [\w.]+;", 3), (r"\b(?:HttpServletRequest|InputStream|PreparedStatement|ResultSet|SecureRandom|MessageDigest)\b", 2),
    ],
    "c": [
        (r"(?m)^\s*#\s*include\s*<\w+\.h>", 4), (r"(?m)^\s*#\s*(?:define|ifdef|ifndef)\b", 2), (r"\b(?:malloc|free|printf|fprintf|strcpy|strlen|memcpy|sprintf|snprintf|scanf|fgets|sizeof|strcat)\s*\(", 2), (r"\b(?:char|int|void|struct \w+|unsigned(?: char| int| long)?|size_t|uint\d+_t|FILE)\s*\*+\s*\w+", 3), (r"\w->\w", 1), (r"\bint main\s*\(", 2), (r"\bstruct \w+\s*\{|\btypedef\b", 2), (r"\bNULL\b", 1), (r"\bchar\s+\w+\[\w*\]", 3),
    ],
    "cpp": [
        (r"\bstd::", 5), (r"(?m)^\s*#\s*include\s*<(?:iostream|string|vector|memory|map|\w+)>", 4), (r"\b(?:cout|cin|endl)\b", 3), (r"\w::~?\w+\s*\(", 1), (r"\bnullptr\b|\btemplate\s*<|\bnamespace \w+|\bdelete(?:\[\])?\s+\w+|\bconst \w+(?:::\w+)*&", 3), (r"\bclass \w+\s*(?::\s*public \w+\s*)?\{", 2), (r"(?m)^\s*(?:public|private|protected):\s*$", 3), (r"\b(?:malloc|printf|strcpy|memcpy|sprintf)\s*\(|\w->\w|\bchar\s+\w+\[", 1),
    ],
    "csharp": [
        (r"(?m)^\s*using [A-Z][\w.]*;", 5), (r"\bnamespace [A-Z][\w.]+\s*[;{]", 3), (r"\bpublic (?:async |static |override |virtual |readonly )*(?:Task<.*>|IActionResult|ActionResult|string|void|byte\[\]|bool|int|object|\w+)\s+[A-Z]\w*\s*\(", 3), (r"\bvar \w+ = new [A-Z]|\bnew [A-Z]\w*\s*(?:\([^)\n]*\))?\s*\{\s*$", 2), (r"\bConsole\.(?:Write|Read)|\bstring\.|\b\$\"|\bget;\s*(?:private )?set;", 3), (r"\[(?:HttpGet|HttpPost|Authorize|ApiController|Route|FromQuery)\b", 5), (r"\b[A-Z]\w+\.[A-Z]\w+\(", 1), (r"@model\b|@Html\.", 5), (r"\busing (?:var|\()", 3), (r"=> new\b|\bforeach \(var\b", 2),
    ],
    "php": [(r"<\?php|<\?=", 20), (r"\$\w+\s*=[^=>]", 3), (r"\$\w+->\w+", 3), (r"\$_(?:GET|POST|REQUEST|COOKIE|SERVER|FILES|SESSION)\b", 8), (r"\becho\b|\barray\(|\bfunction \w+\([^)]*\$", 2)],
    "rust": [
        (r"\bfn \w+(?:<.*>)?\s*\(.*\)\s*(?:->\s*[^{\n]+)?\s*(?:where|\{)?", 4), (r"\blet mut \w+|\bimpl(?:<.*>)?\s+\w+|\bpub (?:fn|struct|enum|mod)\b", 4), (r"(?m)^\s*use (?:std|crate|super|[a-z_]+)::", 4), (r"\b\w+!\(", 2), (r"&(?:mut )?(?:self|str)\b|\bunwrap\(\)|\bSome\(|\bOk\(|\bunsafe \{|::new\(|#\[\w+", 2), (r"\blet \w+(?:: [^=]+)? =", 1), (r"\bmatch \w+.* \{", 1),
    ],
    "go": [
        (r"(?m)^package \w+\s*$", 6), (r"(?m)^func (?:\(\w+ \*?\w+\) )?\w+\(", 5), (r"\w+(?:, ?\w+)* := ", 3), (r"\bif err != nil\b", 5), (r"\bfmt\.\w+\(|\bhttp\.(?:ResponseWriter|Request|HandleFunc|Get|Client)\b|\bos\.(?:ReadFile|Args|Getenv|Open)\b|\bexec\.Command\(", 3), (r"(?m)^import (?:\(|\")", 4), (r"\bdefer \w|\bchan \w|\bgo func\(|\[\]byte\b|\bmap\[string\]|\binterface\{\}", 3),
    ],
    "ruby": [
        (r"(?m)^\s*def (?:self\.)?\w+[?!]?(?:\(.*\))?\s*$", 4), (r"(?m)^\s*end\s*$", 2), (r"(?m)^\s*require(?:_relative)? ['\"]", 4), (r"\bputs\b|\battr_(?:accessor|reader)\b|\bdo \|\w+|\.each\b|\bnil\b|\bunless\b|@\w+ =", 2), (r"#\{", 2), (r"\bparams\[:\w+\]|:\w+ =>|\b\w+: :\w+", 3), (r"(?m)^\s*(?:class|module) [A-Z]\w*(?: < [\w:]+)?\s*$", 3), (r"\b[A-Z]\w+(?:::\w+)*\.\w+[!?]?(?:\(| |$)", 1),
    ],
    "kotlin": [
        (r"\bfun (?:<.*> )?(?:\w+\.)?\w+\(.*\)", 5), (r"\bval \w+(?:: [\w<>?]+)? (?:=|by)", 4), (r"\bdata class\b|\bcompanion object\b|\bobject \w+|\bobject :|\boverride fun\b|\bsuspend fun\b|\blateinit\b|\?\.\w|!!\.", 3), (r"\bprintln\(|\bwhen \(|\barrayOf\(|\blistOf\(|\bprivate const val\b", 2), (r"(?m)^import (?:kotlin|android|java|io|org)\.[\w.*]+\s*$", 3),
    ],
    "swift": [
        (r"\bfunc \w+(?:<.*>)?\(.*\)(?: (?:async )?throws)?(?: -> [^{\n]+)? *\{", 4), (r"\bguard let\b|\bif let\b|\bguard .* else \{", 5), (r"\blet \w+(?:: \[?\w+\]?\??)? =", 1), (r"(?m)^import (?:Foundation|UIKit|SwiftUI|CryptoKit|WebKit|Vapor|CommonCrypto)\b", 8), (r"\bvar \w+: \[?\w+\]?\??", 2), (r"\\\(", 3), (r"\btry[!?]? \w|\b@escaping\b|\b\w+\(_ \w+:|\bURL\(string:|\bUserDefaults\b|\bNS[A-Z]\w+|\bData\(\w+", 2), (r"\bnil\b|\bstruct \w+(?:: \w+)? \{", 1),
    ],
    "shell": [
        (r"\A\s*#!.*\b(?:ba|z|da|k)?sh\b", 20), (r"(?m)^\s*(?:sudo|apt-get|apt|curl|wget|chmod|chown|mkdir|cd|rm|cp|mv|echo|export|source|grep|sed|awk|ssh|scp|docker|git|tar|eval|psql|mysql|pip|npm)\s+[-\w\"'$/.~]", 3), (r"(?m)^\s*(?:if \[|fi|done|esac|then|while read\b|for \w+ in .*; do)", 4), (r"\$\{?\w+\}?", 1), (r"(?m)^[A-Za-z_]\w*=(?:\"|'|\$|\w)", 1), (r"\|\s*(?:bash|sh|grep|awk|sed|tee|xargs)\b", 3), (r"(?m)^set -[a-z]+", 4),
    ],
}  # fmt: skip
_COMPILED = {name: [(re.compile(p), n) for p, n in signs] for name, signs in _SIGNS.items()}
_LOOK = 6000


def guesses(code: str) -> list[str]:
    """The likeliest languages of a piece of code, best first: one, or two where the second is near; none when nothing tells."""
    head = code[:_LOOK]
    scores = {
        name: sum(weight * min(len(pattern.findall(head)), 3) for pattern, weight in signs)
        for name, signs in _COMPILED.items()
    }
    best, second = sorted(scores, key=lambda name: -scores[name])[:2]
    if scores[best] <= 0:
        return []
    return [best, second] if scores[second] >= 0.5 * scores[best] else [best]
