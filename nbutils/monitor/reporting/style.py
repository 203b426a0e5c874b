"""The look of the report: light and dark, on a screen, a phone and paper."""

from __future__ import annotations

__all__ = ["POLICY", "STYLE"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""No network and no script, so that a stranger's report is safe to open."""

STYLE = """
:root{color-scheme:light dark;--line:rgba(128,128,128,.32);--soft:.78;
--pass:rgba(0,158,115,.2);--warn:rgba(230,159,0,.26);--fail:rgba(213,94,0,.28);
--info:rgba(128,128,128,.2)}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;margin:0 auto;
max-width:66em;padding:1.6em 1.3em 4em}
header p{margin:.35em 0}
h1{font-size:1.55em;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:1.15em;margin:2.1em 0 .5em;padding-top:.55em;
border-top:1px solid var(--line)}
h3{font-size:1em;margin:1.3em 0 .3em}
a{color:inherit}
.sub{opacity:var(--soft);font-size:.92em;overflow-wrap:anywhere}
.lead{font-size:1.06em;max-width:52em}
nav{margin:.8em 0 0;font-size:.88em;display:flex;flex-wrap:wrap;gap:.15em 1.1em}
.badge{display:inline-block;padding:.05em .6em;border-radius:6px;font-weight:650;
background:var(--info)}
.badge.pass{background:var(--pass)}.badge.warn{background:var(--warn)}
.badge.fail{background:var(--fail)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.2em,1fr));gap:.6em;
margin:1em 0 0}
.tile{border:1px solid var(--line);border-radius:8px;padding:.45em .8em}
.tile b{display:block;font-size:1.22em;font-variant-numeric:tabular-nums;
overflow-wrap:anywhere;line-height:1.3}
.tile span{opacity:var(--soft);font-size:.84em;display:block;line-height:1.35}
.curves{display:flex;flex-wrap:wrap;gap:1em}
.wide{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.89em;font-variant-numeric:tabular-nums;
margin:.3em 0}
caption{text-align:left;opacity:var(--soft);padding:.1em 0 .35em}
th,td{padding:.22em .8em .22em 0;border-bottom:1px solid var(--line);text-align:left;
vertical-align:top}
th{font-weight:600}td{overflow-wrap:break-word;max-width:44em}
tbody th{font-weight:550}
td.n,th.n{text-align:right;white-space:nowrap}
tr.best{background:var(--pass)}
details{margin:.5em 0}
summary{cursor:pointer;width:fit-content}
summary:focus-visible,a:focus-visible,.wide:focus-visible{outline:2px solid;
outline-offset:2px}
ul{margin:.3em 0;padding-left:1.2em}li{margin:.15em 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid var(--line);
border-radius:8px;padding:.6em .8em;font-size:.88em;margin:.4em 0}
.figures{display:flex;flex-wrap:wrap;gap:1.2em;align-items:flex-start}
figure{margin:0;flex:1 1 24em;max-width:30em}
figure.broad{flex-basis:100%;max-width:100%}
figcaption{opacity:var(--soft);font-size:.86em}
img{max-width:100%;height:auto;background:#fff;border-radius:6px;display:block}
.note{opacity:var(--soft);font-size:.9em;max-width:56em}
@media print{:root{color-scheme:light}body{font-size:11.5px;max-width:none;padding:0}
nav{display:none}h2{break-after:avoid}figure,tr,.tile,svg{break-inside:avoid}
details:not(.nbu-row)::details-content{content-visibility:visible;display:block;height:auto}
summary{list-style:none}.wide{overflow:visible}}
"""
