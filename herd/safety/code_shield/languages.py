"""What code looks like in each language: comments, strings, what is put into strings, where functions start, where input comes from.

A table instead of a grammar each: answers of a model are fragments, often broken, and must be scanned while they grow. Every
expression here is linear: no part can match the same text in two ways.
"""

import re
from dataclasses import dataclass, field, replace

_DQ = r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"?'
_SQ = r"'[^'\\\n]*(?:\\.[^'\\\n]*)*'?"
_BQ = r"`[^`\\]*(?:\\.[^`\\]*)*`?"
_TDQ = r'"""[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*(?:""")?'
_TSQ = r"'''[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*(?:''')?"
_RAW_TDQ = r'"""[^"]*(?:"(?!"")[^"]*)*(?:""")?'
_MULTI_DQ = r'"[^"\\]*(?:\\.[^"\\]*)*"?'
_MULTI_SQ = r"'[^'\\]*(?:\\.[^'\\]*)*'?"
_SLASHES = r"//[^\n]*|/\*.*?(?:\*/|\Z)"
_CHAR = r"'(?:[^'\\\n]|\\[^\n]{1,10}?)'"

_BRACED = r"\{\{|\{([^{}]{0,300})\}"
_DOLLAR = r"\$(?:\{([^{}]{0,300}(?:\{[^{}]{0,300}\}[^{}]{0,300}){0,8})\}|([A-Za-z_]\w*(?:\.\w+)*))"


@dataclass(frozen=True)
class Language:
    """How to read one language. `comment`, `plain` and `filled` are parts of one expression; `hole` finds code inside a filled string."""

    name: str
    comment: str
    plain: str
    filled: str = r"(?!)"
    hole: str = r"(?!)"
    function: str = r"(?!)"
    sources: str = r"(?!)"
    entry: str = r"(?!)"
    params: str = r"(?!)"
    heredoc: bool = False
    bare_calls: str = r"(?!)"
    tokens: re.Pattern[str] = field(init=False, repr=False)
    holes: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        pattern = rf"(?P<c>{self.comment})|(?P<f>{self.filled})|(?P<s>{self.plain})"
        if self.heredoc:
            pattern = rf"(?P<h><<<?[~-]?(?P<q>['\"]?)(?P<tag>[A-Z_]\w*)(?P=q))|{pattern}"
        object.__setattr__(self, "holes", re.compile(self.hole))
        object.__setattr__(self, "tokens", re.compile(pattern, re.DOTALL))


_C_FUNCTION = r"(?m)^[A-Za-z_][^;{}()=\n]{0,160}\([^;{}]{0,400}\)[^;{}()]{0,80}\{"
_JAVA_FUNCTION = (
    r"(?m)^[ \t]*(?:@\w+(?:\([^()\n]{0,120}\))?\s{0,20}){0,4}"
    r"(?:public|private|protected|internal|static|final|async|override|virtual|synchronized)\b[^;={}()\n]{0,160}\([^;{}]{0,500}?\)"
)
_JS_SOURCES = (
    r"\b(?:req|request|ctx(?:\.request)?)\s{0,2}\.\s{0,2}(?:query|body|params|param|cookies|headers|files|get|header|url|originalUrl)\b"
    r"|\bevent\.(?:data|body|queryStringParameters)\b|\blocation\.(?:search|hash|href)\b|\bURLSearchParams\b|\bsearchParams\b"
    r"|\bdocument\.(?:URL|referrer|cookie)\b|\bprocess\.argv\b|\bprompt\("
)
_SPRING = r"@(?:RequestParam|PathVariable|RequestBody|RequestHeader|QueryParam|PathParam|FormParam|CookieValue)\b[^,]{0,120}?\b(\w+)\s{0,3}(?=[,)])"
_JAVA_SOURCES = (
    r"\.\s{0,2}(?:getParameter(?:Values|Map)?|getHeader|getQueryString|getCookies|getReader|getPathInfo|getRequestURI|queryParameters)\b"
    r"|\bnext(?:Line)?\(\)|\breadLine\(|\bgetenv\(|\bgetStringExtra\(|\bgetIntent\(\)|\breceiveParameters\b|\bcall\.parameters\b|\breceiveText\b"
)

LANGUAGES: dict[str, Language] = {
    language.name: language
    for language in (
        Language(
            "python",
            r"#[^\n]*",
            rf"(?:\b[rRbBuU]{{1,2}})?(?:{_TDQ}|{_TSQ}|{_DQ}|{_SQ})",
            rf"\b(?:[fF][rR]?|[rR][fF])(?:{_TDQ}|{_TSQ}|{_DQ}|{_SQ})",
            r"\{\{|\{([^{}\"]{0,300})\}",
            r"(?m)^[ \t]*(?:async[ \t]+)?def[ \t]+\w+\s{0,5}\(",
            r"\b(?:request|self\.request|req)\.(?:args|form|values|json|data|files|cookies|headers|GET|POST|FILES|get_json|get_data|query_params|"
            r"query_string|path_params|params|body|match_info|rel_url|query)\b|\binput\(|\braw_input\(|\bsys\.argv\b|\bsys\.stdin\b|\bos\.environ\b"
            r"|\bos\.getenv\(|\bself\.get_(?:query_)?argument\(|\bgetfirst\(|\bgetvalue\(|\b\w*(?:sock|conn|client)\w*\.recv\(|\bevent\[|\bst\.text_input\(",
            r"@\w+(?:\.\w+)*\.(?:route|get|post|put|delete|patch|websocket)\(|@(?:api_view|require_http_methods)\b",
        ),
        Language(
            "javascript",
            _SLASHES,
            rf"{_DQ}|{_SQ}|(?<=[(,=:\[!&|?;{{])[ \t]{{0,4}}/(?![*/])(?:[^/\\\n\[]|\\.|\[(?:[^\]\\\n]|\\.){{0,40}}\]){{1,120}}/[a-z]*",
            _BQ,
            _DOLLAR.replace("|([A-Za-z_]\\w*(?:\\.\\w+)*)", ""),
            r"\bfunction\b\s{0,3}\w*\s{0,3}\(|(?m:^[ \t]*(?:async[ \t]+|static[ \t]+|public[ \t]+|private[ \t]+|export[ \t]+)*(?:\w+)\([^()\n]{0,200}\)[^\n;(){}]{0,60}\{)"
            r"|(?m:^[ \t]*(?:export[ \t]+)?(?:const|let|var)[ \t]+\w+[^=\n]{0,60}=\s{0,3}(?:async\s{0,3})?\([^()\n]{0,200}\)[^=\n]{0,60}=>)"
            r"|(?m:^[ \t]*\w+(?:\.\w+)*\(\s{0,3}[^\n,()]{1,80},\s{0,3}(?:async\s{0,3})?\([^()\n]{0,100}\)\s{0,3}=>)",
            _JS_SOURCES,
            r"(?!)",
            r"@(?:Body|Query|Param|Headers)\([^()]{0,40}\)\s{0,3}(\w+)",
        ),
        Language(
            "java", _SLASHES, rf"{_TDQ}|{_DQ}|{_CHAR}", function=_JAVA_FUNCTION, sources=_JAVA_SOURCES, params=_SPRING
        ),
        Language(
            "c",
            _SLASHES,
            rf"{_DQ}|{_CHAR}",
            function=_C_FUNCTION,
            sources=r"\bargv\b|\bgetenv\(|\bf?gets\(|\brecv(?:from)?\(|\bscanf\(|\bfgets\(|\bread\(|\bget_(?:param|header)_value\(",
        ),
        Language(
            "cpp",
            _SLASHES,
            rf'\bR"\([^)]*(?:\)(?!")[^)]*)*(?:\)")?|{_DQ}|{_CHAR}',
            function=_C_FUNCTION,
            sources=r"\bargv\b|\bgetenv\(|\bgets\(|\brecv(?:from)?\(|\bscanf\(|\bgetline\(|\bcin\b|\bget_(?:param|header)_value\(|\.(?:query|body|params|target)\(",
        ),
        Language(
            "csharp",
            _SLASHES,
            rf'@"[^"]*(?:""[^"]*)*"?|{_RAW_TDQ}|{_DQ}|{_CHAR}',
            rf'(?:\$@|@\$)"[^"]*(?:""[^"]*)*"?|\$+{_RAW_TDQ}|\${_DQ}',
            _BRACED,
            _JAVA_FUNCTION,
            r"\bRequest\.(?:Query|Form|QueryString|Params|Headers|Cookies|Body|RouteValues)\b|\bRequest\[|\bConsole\.ReadLine\(|\.ReadLine\(\)|\bGetEnvironmentVariable\("
            r"|\bargs\[",
            r"\b(?:IActionResult|ActionResult|JsonResult|ViewResult|FileResult|ContentResult|IHttpActionResult|IResult)\b|\[Http(?:Get|Post|Put|Delete|Patch)",
            r"\[From(?:Query|Body|Route|Form|Header)[^\]]{0,40}\]\s{0,3}\w+\??\s{1,3}(\w+)",
        ),
        Language(
            "php",
            r"//[^\n]*|#(?!\[)[^\n]*|/\*.*?(?:\*/|\Z)",
            _MULTI_SQ,
            rf"{_MULTI_DQ}|`[^`\\]*(?:\\.[^`\\]*)*`?",
            r"\{?(\$[A-Za-z_]\w*(?:->\w+|\[[^\]\n]{0,60}\]){0,3})\}?",
            r"\bfunction\b\s{0,3}&?\w*\s{0,3}\(",
            r"\$_(?:GET|POST|REQUEST|COOKIE|FILES|SERVER)\b|\bfile_get_contents\(\s{0,3}['\"\x01]{0,3}php://input|\bphp://input|\$argv\b|\bgetenv\("
            r"|\$request->(?:input|get|query|all|post|file|header|cookie|request)\b|\$this->(?:input->(?:get|post|cookie)|request->)",
            heredoc=True,
            bare_calls=r"include|include_once|require|require_once|echo|print|exit|die",
        ),
        Language(
            "rust",
            _SLASHES,
            r'\bb?r#+".*?(?:"#+|\Z)|\bb?r"[^"]*"?|' + _CHAR,
            _MULTI_DQ,
            r"\{\{|\{([A-Za-z_]\w*)?(?::[^{}]{0,20})?\}",
            r"\bfn\s{1,3}\w+",
            r"\benv::args(?:_os)?\(|\bread_line\(|\benv::var\(|\bweb::(?:Path|Query|Form|Json)\b|\bstdin\(\)|\.query_string\(",
            r"#\[(?:get|post|put|delete|patch)\(",
            r"(\w+)\s{0,2}:\s{0,2}(?:\w+::)?(?:Path|Query|Form|Json)<",
        ),
        Language(
            "go",
            _SLASHES,
            rf"{_DQ}|`[^`]*`?|{_CHAR}",
            function=r"(?m)^func\b",
            sources=r"\b(?:r|req|request|c|ctx)\.(?:URL|FormValue|PostFormValue|Form|PostForm|Header|Body|Cookie|Query|Param|PathValue|DefaultQuery|PostForm|QueryParam|Params|UserAgent|RequestURI|Referer)\b"
            r"|\bos\.(?:Args|Getenv|Stdin)\b|\bmux\.Vars\(|\bchi\.URLParam\(|\bbufio\.NewReader\(|\bflag\.(?:String|Arg)\b|\bScan(?:ln|f)?\(",
        ),
        Language(
            "ruby",
            r"(?:(?<=\s)|(?<![^\n]))#(?!\{)[^\n]*|(?m:^=begin\b.*?(?:^=end\b|\Z))",
            rf"%[qwi][\[({{<][^\])}}>]*[\])}}>]?|{_MULTI_SQ}|(?<=[(,=~ ])/(?![ =/])(?:[^/\\\n]|\\.){{1,300}}/[a-z]*",
            rf"{_MULTI_DQ}|{_BQ}|%[QWxr]?[{{(][^{{}}()]*(?:#\{{[^{{}}]*\}}[^{{}}()]*)*[)}}]?",
            r"#\{([^{}]{0,300})\}",
            r"(?m)^[ \t]*def[ \t]+(?:self\.)?\w+",
            r"\bparams\b|\brequest\.(?:GET|POST|headers|env|body|path|query_string|referer|raw_post|params)\b|\bcookies\b|\bgets\b|\bARGV\b|\bENV\[|\bENV\.fetch\b",
            heredoc=True,
            bare_calls=r"[a-z_]\w*[!?]?",
        ),
        Language(
            "kotlin",
            _SLASHES,
            _CHAR,
            rf"{_TDQ}|{_DQ}",
            _DOLLAR,
            r"\bfun\b\s{0,3}(?:<[^<>]{0,60}>\s{0,3})?(?:\w+\.)?\w+\s{0,3}\(|(?m:^[ \t]*(?:get|post|put|delete|patch|route)\([^\n]{0,80}\)\s{0,3}\{)",
            _JAVA_SOURCES + r"|\breadln?(?:OrNull)?\(|\breadLine\(|\bintent\.(?:data|extras)\b",
            params=r"@(?:RequestParam|PathVariable|RequestBody|RequestHeader)\b[^,:]{0,60}?\b(\w+)\s{0,3}:",
        ),
        Language(
            "swift",
            _SLASHES,
            r'#"[^"]*(?:"(?!#)[^"]*)*(?:"#)?',
            rf"{_TDQ}|{_DQ}",
            r"\\\(([^()]{0,300}(?:\([^()]{0,300}\)[^()]{0,300}){0,8})\)",
            r"\b(?:func|init)\b\s{0,3}\w*\s{0,3}[(<]|(?m:^[ \t]*\w+\.(?:get|post|put|delete)\()",
            r"\b(?:req|request)\.(?:parameters|query|content|body|headers|url|uri)\b|\breadLine\(|\bCommandLine\.arguments\b|\burl\.query\b|\bqueryItems\b|\bUIPasteboard\b",
        ),
        Language(
            "shell",
            r"(?:(?<=\s)|(?<![^\n]))#[^\n]*",
            r"'[^']*'?",
            _MULTI_DQ,
            r"\$(?:\{([^{}]{0,200})\}|\(([^()]{0,300})\)|([A-Za-z_0-9@*#]\w*))",
            r"(?m)^[ \t]*(?:function[ \t]+)?[\w-]+[ \t]*\(\)",
            r"\$(?:\{?[1-9@*]|QUERY_STRING|REQUEST_URI)|\bread\b",
            heredoc=True,
            bare_calls=r"[A-Za-z_][\w-]*",
        ),
    )
}
LANGUAGES["typescript"] = replace(LANGUAGES["javascript"], name="typescript")
