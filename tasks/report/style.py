"""Colours and the style sheet of the report's page."""

INK, MUTED, FAINT = "#1d2126", "#727a83", "#dcdfe3"
DOMAIN_COLORS = {"math": "#1b7cc2", "code": "#d55e00", "stem": "#009e73", "logic": "#cc6fa0"}

LIGHT = {
    "paper": "#ffffff", "panel": "#f7f7f5", "ink": INK, "muted": MUTED, "faint": FAINT,
    "good": "#1f7a4d", "bad": "#b3372b", "unsure": "#8a6d1a",
}  # fmt: skip
DARK = {
    "paper": "#14171a", "panel": "#1c2024", "ink": "#e8eaed", "muted": "#9aa3ad", "faint": "#353b42",
    "good": "#5cc48f", "bad": "#ee8074", "unsure": "#d9b755",
}  # fmt: skip
FONT = (
    "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue','Noto Sans CJK SC','DejaVu Sans',sans-serif"
)
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Noto Sans Mono CJK SC',monospace"


def _variables(palette: dict[str, str]) -> str:
    return ";".join(f"--{name}:{value}" for name, value in palette.items())


STYLE = (
    f":root{{{_variables(LIGHT)};--font:{FONT};--mono:{MONO}}}"
    f"@media(prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 var(--font)}
main{max-width:1088px;margin:0 auto;padding:48px 24px 96px}
header{border-bottom:1px solid var(--faint);padding-bottom:24px}
h1{font-size:34px;line-height:1.15;margin:2px 0 14px;letter-spacing:-.02em;font-weight:650}
h2{font-size:20px;margin:0 0 16px;letter-spacing:-.01em;font-weight:650}
h3{font-size:15px;margin:24px 0 6px;font-weight:600}
section{margin-top:52px}
.kicker{margin:0;color:var(--muted);font-size:13px;letter-spacing:.02em}
.lead{font-size:18px;line-height:1.5;max-width:46em;margin:0 0 22px}
.facts{display:flex;flex-wrap:wrap;gap:12px 40px;margin:0}
.facts dt{color:var(--muted);font-size:12px}
.facts dd{margin:0;font-size:14px}
figure{margin:20px 0 24px;overflow-x:auto}
figure svg{width:100%;min-width:720px;height:auto;display:block}
figcaption,.note{color:var(--muted);font-size:13px;max-width:60em;margin:10px 0 0}
.scroll{overflow-x:auto;margin:0 0 8px}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{text-align:left;vertical-align:top;padding:7px 10px 7px 0;border-bottom:1px solid var(--faint)}
thead th{color:var(--muted);font-weight:500;font-size:12px;vertical-align:bottom}
thead th{border-bottom:1px solid var(--muted)}
tbody th{font-weight:500}
.numbers{font-variant-numeric:tabular-nums}
.numbers td,.numbers thead th:not(:first-child){text-align:right;padding-left:8px;padding-right:4px}
.numbers td{white-space:nowrap}
.numbers tbody th{white-space:nowrap}
.numbers small{display:block;color:var(--muted);font-size:10.5px;line-height:1.3}
.ledger td:nth-child(2),.ledger thead th:nth-child(2){text-align:left}
.ledger tbody tr:last-child>*{font-weight:600;border-bottom:0}
.swatch{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:8px}
.claims{min-width:720px}
.claims th{width:31%}.claims td:nth-child(2){width:21%;color:var(--muted)}.claims td:last-child{width:150px}
.claims td{font-variant-numeric:tabular-nums}
.verdict{display:inline-block;font-size:12.5px;font-weight:600;white-space:nowrap;color:var(--muted)}
.verdict::before{content:"";display:inline-block;width:8px;height:8px;border-radius:50%}
.verdict::before{background:currentColor;margin-right:7px}
.verdict.good{color:var(--good)}.verdict.bad{color:var(--bad)}.verdict.unsure{color:var(--unsure)}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:8px 48px}
.columns h3{margin-top:4px}
.funnel th{width:46%;font-weight:400}.funnel td{font-variant-numeric:tabular-nums;text-align:right;width:64px}
.funnel th,.funnel td{padding:4px 10px 4px 0}
.funnel tr:first-child th,.funnel tr:last-child th{font-weight:600}
.funnel .bar{width:auto;text-align:left;padding-right:0}
.bar i{display:block;height:10px;margin-top:6px;border-radius:2px;min-width:1px}
.samples th{width:176px}.samples td{width:42%}
.completion{font:12.5px/1.5 var(--mono);margin:0;white-space:pre-wrap;overflow-wrap:anywhere}
.completion b{color:var(--muted);font-weight:400}
.samples small,.none{color:var(--muted);font-size:12px}
code,pre{font-family:var(--mono);font-size:12.5px}
pre{background:var(--panel);border-radius:6px;padding:12px 14px;overflow-x:auto}
@media print{main{max-width:none;padding:0}section{break-inside:avoid-page}}
"""
)
