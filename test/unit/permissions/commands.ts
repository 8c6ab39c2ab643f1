import fc from "fast-check";

/**
 * Random shell commands. Names begin with `q` so that no program of the machine bears one: what a test runs can only reach its own
 * recorders. No path, no `/`, no `~`, so nothing outside the working directory can be written.
 */
export const plainNames = ["qls", "qcat", "qvcs", "qrm"] as const;

const name = fc.constantFrom<string>(...plainNames, "qls", "qcat");
const argument = fc.constantFrom(
  "x",
  "-l",
  "status",
  "push",
  "a1",
  "'a b'",
  '"c d"',
  "$HOME",
  '"$X"',
  "$E",
  "e\\ f",
  "\\;",
  "'|'",
  '"&&"',
  "*.t",
  "$'g;'",
  '"#"',
  "h#i",
  "''",
  "qrm",
  "A=1",
);
const spaces = fc.constantFrom(" ", " ", " ", "  ", "\t", " \\\n ");

const quotings: readonly ((word: string) => string)[] = [
  (word) => `'${word}'`,
  (word) => `"${word}"`,
  (word) => `\\${word}`,
  (word) => `${word.slice(0, 2)}\\${word.slice(2)}`,
  (word) => `${word.slice(0, 1)}''${word.slice(1)}`,
  (word) => `${word.slice(0, 1)}"${word.slice(1)}"`,
  (word) => `$'${word}'`,
  (word) => `$'\\x71${word.slice(1)}'`,
  (word) => `\${E}${word}`,
  (word) => `$E${word}`,
  (word) => `$"${word}"`,
];

const commandWord = fc.oneof(
  { weight: 8, arbitrary: name },
  { weight: 2, arbitrary: fc.tuple(name, fc.constantFrom(...quotings)).map(([word, quote]) => quote(word)) },
  { weight: 1, arbitrary: fc.constantFrom("$QRM", '"$QRM"', "$E qrm", "qr[m]", "{qrm,x}", "q\\\nrm", "''") },
);

/** Wrappers the engine looks through. */
export const wrapperText = fc.constantFrom(
  ...[
    "timeout 5 ",
    "timeout -k 1 5 ",
    "timeout -s KILL 5s ",
    "timeout --signal=TERM 5 ",
    "timeout --foreground -k1 5 ",
    "time ",
    "time -p ",
    "nice ",
    "nice -n 3 ",
    "nice -5 ",
  ],
  ...["nohup ", "stdbuf -oL ", "stdbuf -i 0 -o0 --error=L ", "\\nice ", "'nohup' ", "timeout -- 5 "],
);

const prefix = fc.oneof(
  { weight: 6, arbitrary: fc.constant("") },
  { weight: 3, arbitrary: wrapperText },
  { weight: 2, arbitrary: fc.constantFrom("A=1 ", "A=1 B='x y' ", 'A="$X" ', "A+=2 ", "A= ", "E=qrm ") },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      "xargs ",
      "xargs -n1 ",
      "env ",
      "env A=1 ",
      "command ",
      "eval ",
      "exec ",
      "builtin ",
      "! ",
      "bash -c ",
      "sh -c ",
      "timeout $E 5 ",
      "timeout 5 A=1 ",
      "time ! ",
      "timeout -z 5 ",
      ">o ",
      "2>&1 ",
      "<<<x ",
    ),
  },
);

const redirection = fc.oneof(
  { weight: 6, arbitrary: fc.constant("") },
  {
    weight: 2,
    arbitrary: fc.constantFrom(" >o", " 2>&1", " >>o 2>o2", " &>o", " <o", " >|o", " <<<'a;b'", " >&2", " 2>o", " <>o", "<<<w"),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      " <(qrm)",
      " >(qrm)",
      " $(qrm)",
      " `qrm`",
      ' "$(qrm)"',
      ' "`qrm`"',
      " ${X:-$(qrm)}",
      " $((1+1))",
      " {a,b}",
      " 5>&-",
      " $[1+`qrm`]",
      ' "${X:-"$(qrm)"}"',
    ),
  },
);

const simple = fc
  .tuple(prefix, prefix, commandWord, fc.array(fc.tuple(spaces, argument), { maxLength: 3 }), redirection)
  .map(([first, second, word, parts, redirect]) => `${first}${second}${word}${parts.map((each) => each.join("")).join("")}${redirect}`);

const heredoc = fc
  .tuple(
    simple,
    fc.constantFrom("E", "'E'", '"E"', "\\E", "-E", "-'E'"),
    fc.array(fc.constantFrom("qrm", "$(qrm)", "`qrm`", "x'y", "\tE", " E", "$X \\$(qrm)", "E x", "a \\", "'$(qrm)'", "${X:-`qrm`}"), {
      maxLength: 3,
    }),
    fc.constantFrom("", " | qls", "; qrm", " # $(qrm)", " >o"),
  )
  .map(([command, end, body, tail]) => `${command} <<${end}${tail}\n${body.map((line) => `${line}\n`).join("")}E\n`);

const compound = fc
  .tuple(
    simple,
    simple,
    fc.constantFrom(
      "if",
      "for",
      "group",
      "subshell",
      "while",
      "case",
      "function",
      "not",
      "brackets",
      "unless",
      "short for",
      "comment",
      "coproc",
    ),
  )
  .map(([first, second, kind]) => {
    switch (kind) {
      case "if":
        return `if ${first}; then ${second}; fi`;
      case "for":
        return `for f in a b; do ${first}; ${second}; done`;
      case "group":
        return `{ ${first}; ${second}; }`;
      case "subshell":
        return `(${first}; ${second})`;
      case "while":
        return `while qno; do ${first}; done`;
      case "case":
        return `case x in x) ${first};; *) ${second};; esac`;
      case "function":
        return `qls() { ${first}; }\n${second}`;
      case "not":
        return `! ${first} || ${second}`;
      case "brackets":
        return `[[ -n x ]] && ${first}`;
      case "unless":
        return `if\n${first}\nthen\n${second}\nelse ${first}\nfi`;
      case "comment":
        return `${first} # ${second}\n${second}`;
      // Only with a recorder: a program that reads would wait for a pipe nobody closes.
      case "coproc":
        return `coproc qrm x\n${first}`;
      default:
        return `set -- a\nfor f do ${first}; done`;
    }
  });

const separator = fc.constantFrom(
  "; ",
  ";",
  " && ",
  "&&",
  " || ",
  " | ",
  "|",
  " |& ",
  " & ",
  "&",
  "\n",
  "\n\n",
  " &&\n",
  " |\n",
  " # c\n",
  "; # it's\n",
  " &&\\\n",
  " \\\n;",
);

/** Anything of the grammar above. Each is complete by itself unless it was broken on purpose. */
export const anyCommand: fc.Arbitrary<string> = fc
  .tuple(
    fc.oneof({ weight: 6, arbitrary: simple }, { weight: 1, arbitrary: compound }, { weight: 1, arbitrary: heredoc }),
    fc.array(
      fc.tuple(
        separator,
        fc.oneof({ weight: 8, arbitrary: simple }, { weight: 1, arbitrary: compound }, { weight: 1, arbitrary: heredoc }),
      ),
      { maxLength: 3 },
    ),
  )
  .map(([first, more]) => first + more.map(([between, next]) => (first.endsWith("\n") ? next : between + next)).join(""));

/** The same with a few characters added, doubled or taken away. */
export const brokenCommand: fc.Arbitrary<string> = fc
  .tuple(
    anyCommand.filter((text) => !/while|until/.test(text)),
    fc.array(
      fc.tuple(
        fc.nat(),
        fc.constantFrom(
          "",
          "'",
          '"',
          "\\",
          "$",
          "`",
          ";",
          "&",
          "|",
          "\n",
          " ",
          "#",
          "<",
          ">",
          "(",
          ")",
          "{",
          "}",
          "=",
          "\t",
          "\r",
          "qrm",
          "\\\n",
          "!",
          "[",
          "]",
          "*",
        ),
      ),
      { minLength: 1, maxLength: 3 },
    ),
  )
  .map(([text, edits]) => edits.reduce((current, [at, insert]) => edit(current, at % (current.length + 1), insert), text));

function edit(text: string, at: number, insert: string): string {
  return insert === "" ? text.slice(0, at) + text.slice(at + 1) : text.slice(0, at) + insert + text.slice(at);
}

/** One complete simple command without heredoc, comment or leftover quote, for properties that put text around it. */
export const simpleCommand = simple;

export const denialText = fc.constantFrom(
  "Bash(qrm:*)",
  "Bash(qls:*)",
  "Bash(qvcs push:*)",
  "Bash(qcat x:*)",
  "Bash(qvcs:*)",
  "Bash",
  "Bash(env:*)",
  "Write",
  "Agent",
  "mcp__a",
);
export const approvalText = fc.constantFrom(
  "Bash(qls:*)",
  "Bash(qcat:*)",
  "Bash(qvcs status:*)",
  "Bash(qvcs:*)",
  "Bash(qrm:*)",
  "Bash",
  "Bash(env:*)",
  "Bash(env qls:*)",
  "Read",
  "mcp__a",
);
