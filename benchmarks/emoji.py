"""Write the colour emoji of Noto as a folder of pictures with class folders, for the recipes of image folders.

    sudo apt-get install fonts-noto-color-emoji unicode-data
    python -m benchmarks.emoji --output emoji
    python train.py fit --config configs/gan/image_folder.yaml --data.root emoji

The classes are Unicode's groups, such as "Animals & Nature". Noto is licensed under the SIL Open Font License 1.1.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
LIST = Path("/usr/share/unicode/emoji/emoji-test.txt")
# The only size of the font's bitmaps, and the size of the pictures around them.
FONT_SIZE, PICTURE_SIZE = 109, 136


def read_emoji(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the group and the characters of each emoji in Unicode's list, without those of other skin tones."""
    group = ""
    for line in path.read_text().splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ")
        elif "; fully-qualified" in line and "skin tone" not in line:
            yield group, "".join(chr(int(code, 16)) for code in line.partition(";")[0].split())


def draw(characters: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Return an emoji on a transparent square."""
    picture = Image.new("RGBA", (PICTURE_SIZE, PICTURE_SIZE))
    centre = PICTURE_SIZE // 2
    ImageDraw.Draw(picture).text((centre, centre), characters, font=font, anchor="mm", embedded_color=True)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("emoji"))
    args = parser.parse_args()
    missing = [str(path) for path in (FONT, LIST) if not path.is_file()]
    if missing or not features.check("raqm"):
        parser.error(f"{', '.join(missing) or 'raqm'} is missing. Install fonts-noto-color-emoji and unicode-data.")
    font = ImageFont.truetype(str(FONT), FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
    written = 0
    for group, characters in read_emoji(LIST):
        folder = args.output / group
        folder.mkdir(parents=True, exist_ok=True)
        draw(characters, font).save(folder / f"{'-'.join(f'{ord(one):x}' for one in characters)}.png")
        written += 1
    print(f"Wrote {written:,} pictures to {args.output}.")


if __name__ == "__main__":
    main()
