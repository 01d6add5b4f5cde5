"""The command line: one function per verb.

Nothing heavy is imported before it is needed: `--help`, `methods`, `envs` and `runs` never load JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from operant import __version__
from operant.errors import UserError, near

USAGE = """usage: operant VERB ...

  train METHOD ENV [--flags]   train an agent; METHOD is a name, path/to/file.py:Class, or IDEA:METHOD
  resume RUN                   go on with a run that was stopped, to the same end
  eval RUN                     play episodes with a trained agent: mean return and interval
  watch RUN                    film a trained agent (MP4 or GIF)
  runs [DIR]                   list runs
  compare RUN RUN...           learning curves with intervals, and a table
  envs [PATTERN]               list environments
  methods [PATTERN]            list methods
  papers [PATTERN]             list the papers, and what came of their claims
  reproduce PAPER...           test a paper's claim: its arms, its seeds, the verdict
  web                          papers, runs with live curves, and agents to watch, in the browser
  bench                        measure this machine: steps per second of acting and learning

`operant VERB --help` tells the flags of a verb; `operant train METHOD [ENV] --help` those of a method.
"""


def main(arguments: list[str] | None = None) -> None:
    """Runs one verb. A user's mistake is one line on standard error and exit code 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verbs: dict[str, Callable[[list[str]], int]] = {
        "train": train,
        "resume": resume,
        "eval": evaluate,
        "watch": watch,
        "runs": runs,
        "compare": compare,
        "envs": envs,
        "methods": methods,
        "papers": papers,
        "reproduce": reproduce,
        "web": web,
        "bench": bench,
    }
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        raise SystemExit(0)
    if arguments[0] in ("-V", "--version"):
        print(f"operant {__version__}")
        raise SystemExit(0)
    verb, rest = arguments[0], arguments[1:]
    try:
        if verb not in verbs:
            raise UserError(f"unknown verb '{verb}'.{near(verb, verbs)} `operant --help` lists them")
        code = verbs[verb](rest)
    except UserError as error:
        print(f"operant: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # `operant envs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    raise SystemExit(code)


# ------------------------------------------------------------------------------------------------------------- train
def train(arguments: list[str]) -> int:
    """Train an agent."""
    method, env, rest = _two_words(arguments, "train METHOD ENV [--flags]")
    from operant.run.settings import Settings

    config, rest = _take_config(rest)
    if "--help" in rest or "-h" in rest:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    else:  # an agent's own file may start JAX: the flag is read before, and stays for the help and the parser
        _choose_device(_take("--device", rest)[0])
    agent = _agent(method, env, config)
    settings = Settings.from_json(config["settings"]) if config else Settings()
    defaults = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    defaults["env_options"] = tuple(f"{name}={value!r}" for name, value in settings.env_options.items())
    fields = [(f.name, _settings_type(f), defaults[f.name]) for f in dataclasses.fields(settings)]
    extra = [
        ("run_dir", Annotated[str, _help("where the run is kept; default: runs/ENV/METHOD-TIME")], ""),
        ("init_from", Annotated[str, _help("start from the parameters of this run", agent.starts_from)], ""),
        ("device", Annotated[str, _help(_DEVICE)], ""),
        ("json", Annotated[bool, _help("print one JSON object on the last line of standard output")], False),
        ("quiet", Annotated[bool, _help("show no progress")], False),
        ("profile", Annotated[bool, _help("tell at the end where the time went; runs on one device")], False),
    ]
    agent, rest = _choose_parts(agent, rest)
    flags = _parse(f"operant train {method} {env or 'ENV'}", rest, [*fields, *extra], agent)
    agent = flags.pop("agent")
    own = {name: flags.pop(name) for name, _, _ in extra}
    flags["env_options"] = _options(flags["env_options"])
    if own["profile"]:
        if flags["devices"] > 1:
            raise UserError(f"--profile measures one device, not {flags['devices']}: expected --devices 1, or none")
        flags["devices"] = 1
    _prepare_jax(own["device"], flags["devices"], flags["seeds"], bool(flags["sweep"]), flags["shard"])
    import operant
    from operant.run import stop
    from operant.run.report import finish_run, profile

    stop.own_process()
    run = operant.train(
        agent,
        env,
        run_dir=own["run_dir"] or None,
        init_from=own["init_from"] or None,
        quiet=own["quiet"] or (own["json"] and not sys.stderr.isatty()),
        **flags,
    )
    finish_run(run, json_line=own["json"])
    if own["profile"]:
        profile(run, sys.stderr)
    return _exit_code(run)


def resume(arguments: list[str]) -> int:
    """Go on with a run that was stopped, to the same end as if it had never been."""
    flags = _parse(
        "operant resume RUN",
        arguments,
        [
            ("run", Annotated[str, _positional("the run's directory")], dataclasses.MISSING),
            ("json", Annotated[bool, _help("print one JSON object on the last line of standard output")], False),
            ("quiet", Annotated[bool, _help("show no progress")], False),
            ("device", Annotated[str, _help(_DEVICE)], ""),
            ("code", Annotated[str, _help(_CODE)], ""),
        ],
    )
    _prepare_for_run(flags["run"], flags.pop("code"), flags.pop("device"))
    import operant
    from operant.run import stop
    from operant.run.report import finish_run

    stop.own_process()
    run = operant.resume(flags["run"], quiet=flags["quiet"])
    finish_run(run, json_line=flags["json"])
    return _exit_code(run)


def _exit_code(run: Any) -> int:
    from operant.run.stop import EXIT_INTERRUPTED
    from operant.run.train import EXIT_NAN

    if run.diagnose():
        return EXIT_NAN
    return EXIT_INTERRUPTED if run.interrupted else 0


# ------------------------------------------------------------------------------------------------- looking at a run
def evaluate(arguments: list[str]) -> int:
    """Play whole episodes with a trained agent, without learning."""
    flags = _parse(
        "operant eval RUN",
        arguments,
        [
            ("run", Annotated[str, _positional("the run's directory")], dataclasses.MISSING),
            ("episodes", Annotated[int, _help("episodes of each seed")], 100),
            ("stochastic", Annotated[bool, _help("sample actions instead of taking the policy's mode")], False),
            ("checkpoint", Annotated[str, _help("latest or best")], "latest"),
            ("device", Annotated[str, _help(_DEVICE)], ""),
            ("code", Annotated[str, _help(_CODE)], ""),
            ("json", Annotated[bool, _help("print one JSON object on the last line of standard output")], False),
        ],
    )
    _at_least("episodes", flags["episodes"], 1)
    _prepare_for_run(flags["run"], flags.pop("code"), flags.pop("device"))
    import operant
    from operant.run.report import print_evaluation

    run = operant.load_run(flags["run"], which=flags["checkpoint"])
    result = run.evaluate(flags["episodes"], stochastic=flags["stochastic"])
    print_evaluation(run, result, json_line=flags["json"])
    return 0


def watch(arguments: list[str]) -> int:
    """Film a trained agent."""
    flags = _parse(
        "operant watch RUN",
        arguments,
        [
            ("run", Annotated[str, _positional("the run's directory")], dataclasses.MISSING),
            ("episodes", Annotated[int, _help("how many episodes")], 1),
            ("out", Annotated[str, _help("file to write, .mp4 or .gif; default: films/ in the run")], ""),
            ("lane", Annotated[int, _help("which seed (or setting) to film; -1: the best")], -1),
            ("stochastic", Annotated[bool, _help("sample actions instead of taking the policy's mode")], False),
            ("checkpoint", Annotated[str, _help("latest or best")], "latest"),
            ("max_steps", Annotated[int, _help("cut the film after so many steps")], 2000),
            ("fps", Annotated[int, _help("frames per second; 0: the environment's own")], 0),
            ("device", Annotated[str, _help(_DEVICE)], ""),
            ("code", Annotated[str, _help(_CODE)], ""),
        ],
    )
    _at_least("episodes", flags["episodes"], 1)
    _prepare_for_run(flags["run"], flags.pop("code"), flags.pop("device"))
    import operant
    from operant.run.video import film

    run = operant.load_run(flags.pop("run"), which=flags.pop("checkpoint"))
    path, returns = film(run, **flags)
    print(f"{path}  ({len(returns)} episode(s), return {', '.join(f'{r:,.1f}' for r in returns)})")
    return 0


def runs(arguments: list[str]) -> int:
    """List runs."""
    flags = _parse(
        "operant runs [DIR]",
        arguments,
        [
            ("root", Annotated[str, _positional("where to look")], "runs"),
            ("json", Annotated[bool, _help("print one JSON object on the last line of standard output")], False),
        ],
    )
    from operant.run.directory import list_runs
    from operant.run.report import print_runs

    print_runs(list_runs(Path(flags["root"])), flags["root"], json_line=flags["json"])
    return 0


def compare(arguments: list[str]) -> int:
    """Learning curves of several runs with intervals, as a picture and a table."""
    flags = _parse(
        "operant compare RUN RUN...",
        arguments,
        [
            ("runs", Annotated[tuple[str, ...], _positional("directories of runs")], dataclasses.MISSING),
            ("out", Annotated[str, _help("the picture to write")], "compare.png"),
            ("json", Annotated[bool, _help("print one JSON object on the last line of standard output")], False),
        ],
    )
    from operant.run.report import compare_runs

    compare_runs([Path(run) for run in flags["runs"]], Path(flags["out"]), json_line=flags["json"])
    return 0


# ------------------------------------------------------------------------------------------------------- what there is
def envs(arguments: list[str]) -> int:
    """List environments by name; `*` stands for anything."""
    flags = _parse(
        "operant envs [PATTERN]",
        arguments,
        [
            ("pattern", Annotated[str, _positional("part of a name, or a pattern with *")], ""),
            ("json", Annotated[bool, _help("print one JSON object on the last line of standard output")], False),
        ],
    )
    from operant.envs import registry

    found = [registry.info(name) for name in registry.names(flags["pattern"] or None)]
    if not found:
        raise UserError(f"no environment matches '{flags['pattern']}'.{near(flags['pattern'], registry.names())}")
    if flags["json"]:
        print(json.dumps({"environments": [dataclasses.asdict(e) for e in found]}))
        return 0
    widths = [max(len(getattr(e, field)) for e in found) for field in ("name", "suite")]
    for e in found:
        limit = f"  {e.time_limit:,} steps" if e.time_limit else ""
        print(f"{e.name:<{widths[0]}}  {e.suite:<{widths[1]}}  {e.observation} -> {e.action}{limit}")
    return 0


def methods(arguments: list[str]) -> int:
    """List methods by family."""
    flags = _parse(
        "operant methods [PATTERN]",
        arguments,
        [
            ("pattern", Annotated[str, _positional("part of a name")], ""),
            ("json", Annotated[bool, _help("print one JSON object on the last line of standard output")], False),
        ],
    )
    from operant.methods import entries

    found = [e for e in entries().values() if flags["pattern"].lower() in f"{e.name} {e.family} {e.summary}".lower()]
    if not found:
        raise UserError(f"no method matches '{flags['pattern']}'.{near(flags['pattern'], entries())}")
    if flags["json"]:
        print(json.dumps({"methods": [e._asdict() for e in found]}))
        return 0
    width = max(len(e.name) + (len(":METHOD") if e.wraps else 0) for e in found)
    for family in dict.fromkeys(e.family for e in found):
        print(f"{family}/")
        for e in found:
            if e.family == family:
                print(f"  {e.name + (':METHOD' if e.wraps else ''):<{width}}  {e.summary}")
    return 0


# -------------------------------------------------------------------------------------------------------------- papers
def papers(arguments: list[str]) -> int:
    """List the papers of the corpus: those that can be reproduced, with their verdicts, and those that wait."""
    flags = _parse(
        "operant papers [PATTERN]",
        arguments,
        [
            ("pattern", Annotated[str, _positional("part of a name, a title or a family")], ""),
            ("results", Annotated[str, _help("where results are")], "results"),
            ("json", Annotated[bool, _help("print one JSON object on the last line of standard output")], False),
        ],
    )
    from operant.papers import corpus
    from operant.papers.listing import listing, show

    rows = listing(Path(flags["results"]), flags["pattern"])
    if not rows:
        raise UserError(f"no paper matches '{flags['pattern']}'.{near(flags['pattern'], corpus())}")
    if flags["json"]:
        print(json.dumps({"papers": rows}))
    else:
        show(rows)
    return 0


def reproduce(arguments: list[str]) -> int:
    """Test a paper's claim. What is stopped goes on when the same command is given again."""
    flags = _parse(
        "operant reproduce PAPER...",
        arguments,
        [
            ("papers", Annotated[tuple[str, ...], _positional("papers by name, as `operant papers` lists them")], ()),
            ("scale", Annotated[str, _help("smoke, laptop, gpu or paper")], "laptop"),
            ("all", Annotated[bool, _help("every paper that has a card with this scale")], False),
            ("out", Annotated[str, _help("where results are written")], "results"),
            ("run_dir", Annotated[str, _help("where the runs are kept")], "runs/papers"),
            ("devices", Annotated[int, _help("devices to use; 0: as many as the seeds can be divided over")], 0),
            ("json", Annotated[bool, _help("print one JSON object on the last line of standard output")], False),
            ("quiet", Annotated[bool, _help("show no progress")], False),
        ],
    )
    from operant.papers import SCALES, get, names

    if flags["scale"] not in SCALES:
        raise UserError(f"--scale is '{flags['scale']}'; expected one of {', '.join(SCALES)}")
    if bool(flags["papers"]) == flags["all"]:
        raise UserError("name the papers, as in `operant reproduce dqn`, or say --all; `operant papers` lists them")
    wanted = [get(slug) for slug in (names() if flags["all"] else flags["papers"])]
    if flags["all"]:
        wanted = [paper for paper in wanted if flags["scale"] in paper.scales]
    for paper in wanted:
        paper.scale(flags["scale"])  # a scale that one lacks is told before the first is run
    _prepare_jax("", flags["devices"], 2, True, "lanes")
    from operant.papers.listing import show_result
    from operant.papers.reproduce import Interrupted
    from operant.papers.reproduce import reproduce as run_card
    from operant.run import stop

    stop.own_process()
    quiet = flags["quiet"] or (flags["json"] and not sys.stderr.isatty())
    results = []
    try:
        for paper in wanted:
            folders = {"runs": Path(flags["run_dir"]), "out": Path(flags["out"])}
            results.append(run_card(paper, flags["scale"], **folders, devices=flags["devices"], quiet=quiet))
            if not flags["json"]:
                show_result(paper, results[-1], Path(flags["out"]))
    except Interrupted:
        print("operant: stopped; what was done is kept, and the same command goes on", file=sys.stderr)
        return 130
    if flags["json"]:
        keys = ("slug", "scale", "verdict", "comparisons", "seconds")
        from operant.run.report import to_json_line

        print(to_json_line({"results": [{key: result[key] for key in keys} for result in results]}))
    return 0


def web(arguments: list[str]) -> int:
    """Show papers, runs and agents in the browser, or write the papers as a site of files."""
    flags = _parse(
        "operant web",
        arguments,
        [
            ("runs", Annotated[str, _help("where the runs are")], "runs"),
            ("results", Annotated[str, _help("where results of papers are")], "results"),
            ("host", Annotated[str, _help("address to be reached at; any but this machine's own asks for a token")],
             "127.0.0.1"),
            ("port", Annotated[int, _help("port; 0: any that is free")], 8123),
            ("token", Annotated[str, _help("what a visitor must show; default: made where one is needed")], ""),
            ("export", Annotated[str, _help("write the papers as files to this directory, and end")], ""),
            ("open", Annotated[bool, _help("open the browser")], False),
        ],
    )  # fmt: skip
    if flags["export"]:
        from operant.web.export import export

        print(f"{export(Path(flags['results']), Path(flags['export']))} pages in {flags['export']}")
        return 0
    from operant.web.serve import serve

    serve(flags["runs"], flags["results"], host=flags["host"], port=flags["port"], token=flags["token"],
          open_browser=flags["open"])  # fmt: skip
    return 0


def bench(arguments: list[str]) -> int:
    """Measure this machine: steps per second of PPO on CartPole, acting alone and learning."""
    flags = _parse(
        "operant bench",
        arguments,
        [
            ("env", Annotated[str, _help("environment")], "CartPole-v1"),
            ("method", Annotated[str, _help("method")], "ppo"),
            ("num_envs", Annotated[tuple[int, ...], _help("numbers of environments")], (4, 64)),
            ("seeds", Annotated[int, _help("seeds at once")], 1),
            ("devices", Annotated[int, _help("devices to use")], 1),
            ("seconds", Annotated[float, _help("about how long to measure each")], 3.0),
            ("json", Annotated[bool, _help("print one JSON object on the last line of standard output")], False),
        ],
    )
    _at_least("seeds", flags["seeds"], 1)
    _at_least("seconds", flags["seconds"], 0.1)
    _prepare_jax("", flags["devices"], flags["seeds"], False, "lanes")
    from operant.run.report import bench as measure

    measure(**{name: value for name, value in flags.items() if name != "json"}, json_line=flags["json"])
    return 0


# ----------------------------------------------------------------------------------------------------- flags and set-up
def _help(text: str, *also: str) -> Any:
    """The help text of a flag, and what it may be called besides."""
    import tyro

    return tyro.conf.arg(help=text, aliases=[f"--{name}" for name in also if name])


def _positional(text: str) -> Any:
    import tyro

    return (tyro.conf.Positional, tyro.conf.arg(help=text))


def _parse(prog: str, arguments: list[str], fields: list[tuple[str, Any, Any]], agent: Any = None) -> dict[str, Any]:
    """Typed flags by tyro. `agent` adds its fields as flags; the result then has the key `agent`."""
    import tyro

    made = []
    for name, kind, default in fields:
        kind = _flatten_annotations(kind)
        made.append((name, kind) if default is dataclasses.MISSING else (name, kind, _default(default)))
    if agent is not None:
        kind = _flag_class(type(agent), agent)
        made.append(("agent_", Annotated[kind, tyro.conf.arg(name="")], dataclasses.field(default=kind())))
    flags = dataclasses.make_dataclass("Flags", made)
    told = io.StringIO()
    asks_help = "--help" in arguments or "-h" in arguments
    try:
        with contextlib.nullcontext() if asks_help else contextlib.redirect_stderr(told):
            parsed: Any = tyro.cli(
                flags,
                args=_gathered(arguments, _lists(flags)),
                prog=prog,
                config=(tyro.conf.HelptextFromCommentsOff,),
                description=(type(agent).__doc__ or "") + _told_parts(agent) if agent is not None else "",
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise UserError(f"{_one_line(told.getvalue())} `{prog} --help` tells the flags") from None
    result = {f.name: getattr(parsed, f.name) for f in dataclasses.fields(parsed)}
    if agent is not None:
        result["agent"] = _read_agent(agent, result.pop("agent_"))
    return result


def _lists(flags: Any, prefix: str = "--") -> set[str]:
    """The flags that take a list."""
    found = set()
    for f in dataclasses.fields(flags):
        kind = getattr(f.type, "__origin__", f.type) if hasattr(f.type, "__metadata__") else f.type
        if f.name == "agent_":  # its flags stand beside the others
            found |= _lists(kind, prefix)
        elif dataclasses.is_dataclass(kind):
            found |= _lists(kind, f"{prefix}{f.name.replace('_', '-')}.")
        elif typing.get_origin(kind) is tuple:
            found.add(prefix + f.name.replace("_", "-"))
    return found


def _gathered(arguments: list[str], lists: set[str]) -> list[str]:
    """A list flag that is given again goes on with its list: the parser would keep the last one alone."""
    groups: list[list[str]] = [[]]
    first: dict[str, list[str]] = {}
    for word in arguments:
        if word == "-h" or word.startswith("--"):
            name, equals, value = word.partition("=")
            name = name.replace("_", "-")
            if name in lists and name in first:
                groups.append(first[name])
            else:
                groups.append([name] if name in lists else [word])
                first[name] = groups[-1]
            if name in lists and equals:
                groups[-1].append(value)
        else:
            groups[-1].append(word)
    order = list({id(group): group for group in groups}.values())
    return [word for group in order for word in group]


def _one_line(box: str) -> str:
    """A framed message's words, without frame (of dashes where a terminal has no other), title and hints at --help."""
    lines = [line.strip("│┃╭╮╰╯─━ \t") for line in box.splitlines()]
    words = [line for line in lines if line.strip("-")][1:]
    words = [w for w in words if not w.startswith("For full helptext") and not w.endswith("--help")]
    return " ".join(words).strip()[:400].rstrip(".") + "."


def _default(value: Any) -> Any:
    if isinstance(value, (list, dict, set)):
        return dataclasses.field(default_factory=lambda: value)
    return dataclasses.field(default=value)


def _flatten_annotations(kind: Any) -> Any:
    if hasattr(kind, "__metadata__"):
        flat: list[Any] = []
        for item in kind.__metadata__:
            flat.extend(item if isinstance(item, tuple) else (item,))
        kind = Annotated[(kind.__origin__, *flat)]
    return kind


def _flag_class(cls: type, agent: Any) -> type:
    """A plain dataclass with a flag for each field of an agent, defaults from `agent`; parts become prefixes."""
    from operant.agent import children

    hints = typing.get_type_hints(cls)
    parts = children(agent)
    made = []
    for f in dataclasses.fields(cls):
        value = getattr(agent, f.name)
        if f.name in parts:
            if dataclasses.is_dataclass(value):
                kind = _flag_class(type(value), value)
                made.append((f.name, kind, dataclasses.field(default=kind())))
            continue
        choices = f.metadata.get("choices")
        kind = typing.Literal[choices] if choices else hints[f.name]
        made.append((f.name, Annotated[kind, _help(f.metadata.get("help", ""))], _default(value)))
    return dataclasses.make_dataclass(cls.__name__ + "Flags", made, frozen=True)


def _choose_parts(agent: Any, arguments: list[str], prefix: str = "--") -> tuple[Any, list[str]]:
    """`--memory prioritized`: the agent with the kinds of parts that are named, and the other arguments."""
    from operant.agent import children, choose

    for name, part in children(agent).items():
        flag, rest = prefix + name.replace("_", "-"), []
        words = iter(arguments)
        for word in words:
            if word.partition("=")[0].replace("_", "-") != flag:
                rest.append(word)
                continue
            kind = word.partition("=")[2] or next(words, "")
            _check_kinds(agent, name, flag, kind)
            agent = choose(agent, name, kind)
        arguments = rest
        if dataclasses.is_dataclass(part):
            part, arguments = _choose_parts(getattr(agent, name), arguments, f"{flag}.")
            agent = agent.replace(**{name: part})
    return agent, arguments


def _check_kinds(agent: Any, name: str, flag: str, kind: str) -> None:
    """UserError if the part called `name` comes in one kind only, with the way to what was presumably meant."""
    if next(f for f in dataclasses.fields(agent) if f.name == name).metadata["choices"]:
        return
    if name == "agent":
        hint = f"the agent within is named behind a colon, as in {agent.registered_name}:ppo"
    else:
        hint = f"its fields are set one by one, as in {flag}.{dataclasses.fields(getattr(agent, name))[0].name}"
    raise UserError(f"{flag} {kind}: there are no kinds of it to choose from; {hint}")


def _told_parts(agent: Any, prefix: str = "--") -> str:
    """A line for each part that can be chosen, for the help text."""
    from operant.agent import children

    lines = ""
    for f in dataclasses.fields(agent):
        flag = prefix + f.name.replace("_", "-")
        if f.metadata.get("child") and f.metadata.get("choices"):
            kinds = "|".join(cls.registered_name for cls in f.metadata["choices"])
            now = getattr(agent, f.name).registered_name
            lines += f"\n{flag} {kinds}: {f.metadata['help']} (now: {now})"
        if f.name in children(agent) and dataclasses.is_dataclass(getattr(agent, f.name)):
            lines += _told_parts(getattr(agent, f.name), f"{flag}.")
    return lines


def _read_agent(agent: Any, flags: Any) -> Any:
    changes = {}
    for f in dataclasses.fields(flags):
        value, old = getattr(flags, f.name), getattr(agent, f.name)
        changes[f.name] = _read_agent(old, value) if dataclasses.is_dataclass(value) else value
    return agent.replace(**changes)


def _options(texts: tuple[str, ...]) -> dict[str, Any]:
    """`name=value` texts; a value is true, false or a Python literal where it reads as one, else text."""
    import ast

    options, words = {}, {"true": "True", "false": "False", "none": "None"}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--env-options {text}: expected NAME=VALUE, for example time_limit=200")
        try:
            options[name.strip().replace("-", "_")] = ast.literal_eval(words.get(value.strip().lower(), value))
        except (ValueError, SyntaxError):
            options[name.strip().replace("-", "_")] = value
    return options


def _settings_type(f: dataclasses.Field) -> Any:
    from operant.run import settings

    if f.name == "env_options":
        return Annotated[tuple[str, ...], _help("NAME=VALUE: options of the environment, as in time_limit=200")]
    return Annotated[typing.get_type_hints(settings.Settings)[f.name], _help(f.metadata["help"])]


def _two_words(arguments: list[str], usage: str) -> tuple[str, str, list[str]]:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(
            f"usage: operant {usage}\n\n`operant methods` and `operant envs` list what there is; `operant train METHOD "
            "--help` tells a method's flags,\nand with ENV behind METHOD its preset for that environment."
        )
        raise SystemExit(0)
    words = [a for a in arguments[:2] if not a.startswith("-")]
    if words == arguments[:1] and not {"-h", "--help"}.isdisjoint(arguments):
        return words[0], "", arguments[1:]
    if len(words) < 2:
        raise UserError(
            f"usage: operant {usage}; both METHOD and ENV come first, for example: operant train ppo CartPole-v1"
        )
    return words[0], words[1], arguments[2:]


def _take(flag: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of `--flag VALUE` or `--flag=VALUE`, None without it ("" where the value is missing), and the rest."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == flag:
            if equals:
                return value, arguments[:i] + arguments[i + 1 :]
            return "".join(arguments[i + 1 : i + 2]), arguments[:i] + arguments[i + 2 :]
    return None, arguments


def _take_config(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """`--config FILE`: what a run wrote; its agent and settings are the defaults that other flags override."""
    file, rest = _take("--config", arguments)
    if file is None:
        return {}, rest
    if not file:
        raise UserError("--config needs a file: the config.json of a run")
    from operant.run.files import from_text
    from operant.run.settings import check_config

    path = Path(file) / "config.json" if Path(file).is_dir() else Path(file)
    try:
        config = from_text(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--config {file}: cannot be read ({error}); expected the config.json of a run") from None
    if not isinstance(config, dict) or not {"agent", "settings"} <= set(config):
        raise UserError(f"--config {file}: expected an object with the keys agent and settings")
    check_config(config, f"--config {file}", "agent", "settings")
    return config, rest


def _agent(method: str, env: str, config: dict[str, Any]) -> Any:
    from operant.envs import registry
    from operant.methods import build, from_json

    # an unknown name is an error before anything heavy starts; Gymnasium's own names are not in the index
    if env and ":" not in env and not _in_gymnasium(env):  # without one only a method's flags are asked for
        registry.info(env)
    agent = build(method, env)
    if config:
        loaded = from_json(config["agent"])
        if _names(loaded) != _names(agent):
            raise UserError(f"--config holds the agent {_names(loaded)}, but the method {method} is {_names(agent)}")
        return loaded
    return agent


def _names(agent: Any) -> str:
    """An agent and those that it goes around, as METHOD names them: `rnd:ppo`."""
    around = getattr(agent, "agent", None)
    return agent.registered_name + (f":{_names(around)}" if hasattr(around, "registered_name") else "")


def _in_gymnasium(env: str) -> bool:
    from operant.envs import registry

    if env in registry.names():
        return False
    import gymnasium

    return env in gymnasium.registry


_CODE = "file of your own method, which the run names but does not hold: path/to/file.py"
_DEVICE = "cpu, gpu or tpu; default: the best there is"
# JAX puts the arguments of an environment outside it on the CPU, which has to be there beside the accelerator
_PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu", "tpu": "tpu,cpu"}


def _prepare_for_run(path: str, code: str, device: str) -> None:
    """Devices as the run had them, so that resuming is exact; and the user's own method under its name."""
    from operant.run.directory import RunDirectory
    from operant.run.settings import check_config

    config = RunDirectory.open(Path(path)).config
    check_config(config, Path(path) / "config.json")
    _prepare_jax(device, config["devices"]["number"], 1, False, "lanes")
    if code:
        from operant.methods import run_file

        run_file(code)


def _prepare_jax(device: str, devices: int, seeds: int, swept: bool, shard: str) -> None:
    """Settings that must be made before JAX starts: platform, CPU devices, the compilation cache."""
    _choose_device(device)
    from operant.run.start import prepare

    cores = os.cpu_count() or 1
    wanted = devices or (cores if seeds > 1 or swept or shard == "envs" else 1)
    prepare(cpu_devices=min(wanted, cores))
    if device:
        _check_device(device)


def _choose_device(device: str | None) -> None:
    """The platform that JAX will start on; one that is not there is told by `_check_device`, which starts it."""
    if not device:
        return
    if device not in _PLATFORMS:
        raise UserError(f"--device is '{device}'; expected cpu, gpu or tpu")
    import jax

    jax.config.update("jax_platforms", _PLATFORMS[device])


def _check_device(device: str) -> None:
    """Raises UserError where JAX does not run on `device`: without it, it would take another and say nothing."""
    import jax

    try:
        found = jax.default_backend()
    except RuntimeError:  # a platform that does not start
        found = ""
    if found == device:
        return
    jax.config.update("jax_platforms", None)
    there = ", ".join(sorted({d.platform for d in jax.devices()} | {"cpu"}))
    raise UserError(f"--device {device}: JAX finds none here; there is {there}")


def _at_least(name: str, value: float, low: float) -> None:
    if not value >= low:  # NaN is not
        raise UserError(f"--{name} is {value}; expected at least {low}")
