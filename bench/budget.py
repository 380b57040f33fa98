#!/usr/bin/env python3
"""Compares stock presets with models that --max-size fits into the same bytes.

usage: budget.py MODELPIPE MODEL --calibration FILE --text FILE --imatrix FILE [--out DIR] [--chunks 24] [--device D] [PRESET...]

Measures what types lose (modelpipe losses, on the calibration text), converts MODEL by each preset and by --max-size of
that preset's bytes, measures the KL divergence of all in one pass over the text, which should be another one (modelpipe
validate --beside), and prints a table. DIR keeps the measurements, which are not repeated, and budget.svg with both curves.
"""
import argparse, json, math, os, pathlib, subprocess

p = argparse.ArgumentParser(usage=__doc__)
p.add_argument("modelpipe"); p.add_argument("model"); p.add_argument("presets", nargs="*", default=[])
for name in ("calibration", "text", "imatrix"):
    p.add_argument("--" + name, required=True)
p.add_argument("--out", default="out/budget"); p.add_argument("--chunks", default="24"); p.add_argument("--device", default="auto")
p.add_argument("--loss-chunks", default="8")
a = p.parse_args()
presets = a.presets or ["Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M"]
out = pathlib.Path(a.out); out.mkdir(parents=True, exist_ok=True)


def run(*args):
    return subprocess.run([a.modelpipe, *args], check=True, stdout=subprocess.PIPE, text=True).stdout


losses = out / "losses.json"
if not losses.exists():
    run("losses", a.model, "--text", a.calibration, "--chunks", a.loss_chunks, "--imatrix", a.imatrix, "-o", str(losses), "--device", a.device)


def made(name, *types):
    """Converts once; returns (file, bytes, expected KLD)."""
    file, note = out / (name + ".gguf"), out / (name + ".json")
    if not note.exists():
        r = json.loads(run("convert", a.model, *types, "--imatrix", a.imatrix, "-o", str(file), "--json"))
        note.write_text(json.dumps([r["size"], r.get("budget", {}).get("expected_kld")]))
    return file, *json.loads(note.read_text())


files = []  # preset, fit, preset, fit, ...
for name in presets:
    files.append(made("preset-" + name, "--type", name))
    files.append(made("fit-" + name, "--max-size", str(files[-1][1]), "--losses", str(losses)))

# One pass over the text for all of them: the first is the candidate, the others stand beside it.
report = out / "report.json"
if not report.exists():
    beside = [x for f in files[1:] for x in ("--beside", str(f[0]))]
    run("validate", str(files[0][0]), "--against", a.model, "--imatrix", a.imatrix, "--text", a.text, "--chunks", a.chunks, "--device", a.device,
        "--skip", "tokens,template,weights,canaries", "--max-kld", "9", *beside, "--report", str(out))
    for f in files:
        f[0].unlink()
judged = json.loads(report.read_text())
results = [(judged["kld"]["mean"], judged["top1"])] + [(x["kld"], x["top1"]) for x in judged["alternatives"]]

rows = []
print("| bytes of | limit | used | KLD of the preset | KLD of the fit | change | top-1 % | expected KLD |\n|---|---|---|---|---|---|---|---|")
for i, name in enumerate(presets):
    (_, size, _), (_, fit, expected) = files[2 * i:2 * i + 2]
    (kld, top1), (less, top) = results[2 * i:2 * i + 2]
    rows.append((name, size, kld, fit, less))
    print(f"| {name} | {size:,} | {100 * fit / size:.2f} % | {kld:.6f} | {less:.6f} | {100 * (less / kld - 1):+.1f} % "
          f"| {100 * top1:.2f} -> {100 * top:.2f} | {expected:.4f} |")

# Bytes against divergence, both curves; the divergence on a logarithmic axis.
W, H, L, B, T = 720, 420, 70, 50, 20
xs = [s / 1e6 for r in rows for s in (r[1], r[3])]; ys = [math.log10(k) for r in rows for k in (r[2], r[4])]
x0, x1 = min(xs) - 3, max(xs) + 3; y0, y1 = min(ys) - 0.1, max(ys) + 0.1
X = lambda s: L + (s / 1e6 - x0) / (x1 - x0) * (W - L - 20)
Y = lambda k: T + (y1 - math.log10(k)) / (y1 - y0) * (H - T - B)
svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12" role="img">',
       '<title>Bytes against KL divergence: stock presets and budgets</title>', f'<rect width="{W}" height="{H}" fill="#fff"/>']
for k in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
    if y0 <= math.log10(k) <= y1:
        svg += [f'<line x1="{L}" x2="{W - 20}" y1="{Y(k):.1f}" y2="{Y(k):.1f}" stroke="#ddd"/>', f'<text x="{L - 8}" y="{Y(k) + 4:.1f}" text-anchor="end">{k:g}</text>']
for s in range(int(x0 // 10 * 10) + 10, int(x1) + 1, 10):
    svg.append(f'<text x="{X(s * 1e6):.1f}" y="{H - B + 20}" text-anchor="middle">{s} MB</text>')
svg.append(f'<text x="{L}" y="{H - 8}">size of the file</text><text x="16" y="{T + 175}" text-anchor="middle" transform="rotate(-90 16 {T + 175})">mean KL divergence, nats</text>')
for at, color, label in ((1, "#c0392b", "stock preset"), (3, "#1f6fb2", "--max-size of the same bytes")):
    points = sorted((r[at], r[at + 1]) for r in rows)
    svg.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{" ".join(f"{X(s):.1f},{Y(k):.1f}" for s, k in points)}"/>')
    svg += [f'<circle cx="{X(s):.1f}" cy="{Y(k):.1f}" r="4" fill="{color}"/>' for s, k in points]
    svg.append(f'<text x="{W - 30}" y="{T + 20 + 18 * (at > 1)}" text-anchor="end" fill="{color}">{label}</text>')
svg += [f'<text x="{X(r[1]) + 7:.1f}" y="{Y(r[2]) - 7:.1f}" fill="#c0392b">{r[0]}</text>' for r in rows]
(out / "budget.svg").write_text("\n".join(svg) + "\n</svg>\n")
