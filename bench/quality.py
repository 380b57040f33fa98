#!/usr/bin/env python3
"""What the presets lose, measured by modelpipe and set beside what llama-perplexity has measured.

usage: quality.py MODELPIPE MODEL TEXT EXPECTED.csv [--imatrix F] [--chunks 24] [--device D] [PRESET[+] ...]
MODEL is the folder that bench/smollm2_wide.py makes, TEXT wikitext-2's raw test split, EXPECTED.csv the table of
llama-perplexity's figures (bench/quality.csv). PRESET+ is with the importance matrix; without any, all rows of the table.
Each file is written, measured with `modelpipe validate` and removed. Prints a Markdown table; fails where a mean KLD is
more than 3 % off.
"""
import argparse, csv, json, os, pathlib, subprocess, sys, tempfile, time

LIMIT = 0.03


def measure(a, preset, imatrix, scratch):
    """The report of one preset."""
    out = scratch / f'{preset}.gguf'
    weigh = ['--imatrix', a.imatrix] if imatrix else []
    subprocess.run([a.modelpipe, 'convert', a.model, '--type', preset, *weigh, '-o', out], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    r = subprocess.run([a.modelpipe, 'validate', out, '--against', a.model, '--text', a.text, '--chunks', str(a.chunks), '--ctx', '512',
                        '--device', a.device, '--skip', 'tokens,template,weights,canaries', '--max-kld', '100', '--json'], capture_output=True, text=True)
    out.unlink()
    if r.returncode:
        sys.exit(f'{preset}: status {r.returncode}: {r.stderr[-500:]}')
    return json.loads(r.stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('modelpipe'), p.add_argument('model'), p.add_argument('text'), p.add_argument('expected')
    p.add_argument('presets', nargs='*'), p.add_argument('--imatrix'), p.add_argument('--chunks', type=int, default=24), p.add_argument('--device', default='auto')
    a = p.parse_intermixed_args()
    rows = {r['preset'] + ('+' if r['imatrix'] == 'yes' else ''): r for r in csv.DictReader(open(a.expected))}
    bad = []
    print('| preset | imatrix | bytes | PPL | KLD | +/- | top-1 % | llama-perplexity: KLD | difference |\n|---|---|---|---|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as scratch:
        for name in a.presets or rows:
            preset, weighed = name.rstrip('+'), name.endswith('+')
            if weighed and not a.imatrix:
                continue
            at = time.time()
            r = measure(a, preset, weighed, pathlib.Path(scratch))
            want = rows.get(name)
            off = f"{want['kld']} | {r['kld']['mean'] / float(want['kld']) - 1:+.2%}" if want else '| '
            if want and abs(r['kld']['mean'] / float(want['kld']) - 1) > LIMIT:
                bad.append(name)
            print(f"| {preset} | {'yes' if weighed else 'no'} | {r['candidate']['size']:,} | {r['ppl']['candidate']:.3f} | {r['kld']['mean']:.6f} | "
                  f"{r['kld']['std_err']:.6f} | {100 * r['top1']:.2f} | {off} |", flush=True)
            print(f'{name}: {time.time() - at:.0f} s', file=sys.stderr, flush=True)
    if bad:
        sys.exit(f'more than {LIMIT:.0%} off: {", ".join(bad)}')


if __name__ == '__main__':
    main()
