"""How ``report.html`` looks: on a wide screen, on a telephone, in the dark and on paper."""

# contrast of every text colour with what it stands on is at least 4.5 (WCAG AA); tests count it
LIGHT = {
    "paper": "#ffffff",
    "raised": "#f3f5f8",
    "ink": "#1a1d21",
    "quiet": "#545d69",
    "line": "#d3d9e0",
    "link": "#0b57a4",
    "good": "#17663a",
    "bad": "#a8201a",
}
DARK = {
    "paper": "#14171b",
    "raised": "#1e2329",
    "ink": "#e7eaee",
    "quiet": "#a6b0bb",
    "line": "#39414b",
    "link": "#86bdf5",
    "good": "#72d095",
    "bad": "#ff9a91",
}


def _colours(colours: dict[str, str]) -> str:
    return ":root{" + ";".join(f"--{name}:{colour}" for name, colour in colours.items()) + "}"


STYLE = f"""\
:root{{color-scheme:light dark}}
{_colours(LIGHT)}
@media (prefers-color-scheme:dark){{{_colours(DARK)}}}
*{{box-sizing:border-box}}
html{{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
  background:var(--paper);color:var(--ink);scroll-padding-top:1rem;-webkit-text-size-adjust:100%}}
body{{margin:0 auto;max-width:86rem;padding:1.5rem 1rem 4rem}}
h1{{font-size:1.75rem;line-height:1.25;margin:0 0 1rem;text-wrap:balance;overflow-wrap:anywhere}}
h2{{font-size:1.35rem;line-height:1.3;margin:2.75rem 0 .75rem;padding-top:.75rem;border-top:1px solid var(--line)}}
h3{{font-size:1.1rem;margin:1.75rem 0 .5rem;overflow-wrap:anywhere}}
section:first-child h2{{margin-top:0;padding-top:0;border-top:0}}
p,.terms{{max-width:50rem;margin:.75rem 0}}
p,dd,.terms{{overflow-wrap:anywhere}}
a{{color:var(--link)}}
:focus-visible{{outline:3px solid var(--link);outline-offset:2px}}
.skip{{position:absolute;left:-100vw}}
.skip:focus{{left:1rem;top:1rem;background:var(--paper);padding:.5rem;z-index:2}}
nav{{margin:0 0 1.5rem;padding:.75rem 1rem;background:var(--raised);border-radius:.5rem}}
nav ul{{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.15rem 1.25rem}}
nav a{{display:inline-block;padding:.2rem 0;text-decoration:none}}
nav a:hover{{text-decoration:underline}}
.facts{{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:.75rem;margin:1.25rem 0}}
.facts div{{background:var(--raised);border-radius:.5rem;padding:.75rem .9rem}}
.facts dt{{color:var(--quiet)}}
.facts dd{{margin:0;font-size:1.5rem;line-height:1.3;font-weight:650}}
.facts dd+dd{{font-size:1rem;font-weight:400;color:var(--quiet)}}
.terms div{{margin:.55rem 0}}
.terms dt{{font-weight:650}}
.terms dd{{margin:0}}
.scroll{{overflow-x:auto;margin:1rem 0 1.5rem;border:1px solid var(--line);border-radius:.5rem}}
table{{border-collapse:collapse;min-width:100%;font-variant-numeric:tabular-nums}}
caption{{text-align:left;padding:.6rem .75rem;font-weight:650;background:var(--raised)}}
caption span{{position:sticky;left:.75rem;display:inline-block;max-width:min(60rem,calc(100vw - 4.5rem))}}
th,td{{padding:.4rem .65rem;text-align:right;vertical-align:top;border-top:1px solid var(--line)}}
thead th{{vertical-align:bottom;font-weight:600;color:var(--quiet);min-width:4.75rem}}
tbody th{{font-weight:600}}
tr>:first-child{{text-align:left;position:sticky;left:0;background:var(--paper);min-width:7rem;max-width:17rem;
  overflow-wrap:break-word}}
th.prose{{min-width:14rem}}
td.prose{{text-align:left;min-width:9rem;max-width:34rem;overflow-wrap:anywhere}}
td.number{{white-space:nowrap}}
thead th.prose{{text-align:left}}
tr.mean>*{{font-weight:650;border-top:2px solid var(--quiet)}}
.met{{color:var(--good);font-weight:650}}
.unmet{{color:var(--bad);font-weight:650}}
.unknown{{color:var(--quiet)}}
figure{{margin:1.25rem 0}}
figure img{{display:block;max-width:100%;height:auto;border-radius:.35rem;background:#101114}}
figcaption{{margin-top:.4rem;color:var(--quiet);max-width:60rem;overflow-wrap:anywhere}}
.settings dt{{font-weight:650;margin-top:.6rem}}
.settings dd{{margin:0}}
code,pre{{font:1rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}}
pre{{overflow-x:auto;background:var(--raised);padding:.75rem;border-radius:.5rem;margin:.25rem 0;max-height:32rem}}
@media (min-width:68rem){{
body{{display:grid;grid-template-columns:13rem minmax(0,1fr);column-gap:2.5rem}}
header{{grid-column:1/-1}}
nav{{position:sticky;top:1rem;align-self:start}}
nav ul{{display:block}}
.terms div{{display:grid;grid-template-columns:10.5rem minmax(0,1fr);column-gap:1.25rem}}
}}
@media (max-width:30rem){{
h1{{font-size:1.45rem}}
.facts{{grid-template-columns:1fr 1fr}}
th,td{{padding:.4rem .55rem}}
tr>:first-child{{min-width:8.75rem;max-width:9.5rem;overflow-wrap:anywhere}}
td.prose{{min-width:13rem}}
th.prose{{min-width:9.5rem}}
}}
@page{{size:A4;margin:14mm 12mm}}
@media print{{
{_colours(LIGHT)}
html{{font-size:10pt}}
body{{display:block;max-width:none;padding:0}}
nav,.skip{{display:none}}
h2,h3,caption{{break-after:avoid}}
h2{{margin-top:1.5rem}}
figure,.facts div,.terms div,.settings div{{break-inside:avoid}}
figure img{{max-height:235mm;max-width:100%;width:auto}}
.scroll{{overflow:visible;border:0}}
table.short{{break-inside:avoid}}
table{{font-size:7.5pt;width:100%;table-layout:auto}}
thead{{display:table-header-group}}
tr{{break-inside:avoid}}
th,td,td.prose,th.prose,thead th,tr>:first-child{{position:static;padding:.25rem .3rem;min-width:0;max-width:none}}
td.number{{white-space:normal}}
tr>:first-child{{min-width:5em}}
caption span{{position:static;max-width:none}}
.facts{{grid-template-columns:repeat(4,1fr)}}
pre{{max-height:none;white-space:pre-wrap}}
code,pre{{font-size:8.5pt}}
}}
"""
