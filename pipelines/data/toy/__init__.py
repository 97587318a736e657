"""The toy town: procedural street scenes with exact labels and pairs of views, to start from on any machine.

solids      polygons and ellipsoids, the classes       dice, noise   random draws and textures
world       a place, of styles, buildings and props    light         time of day, sky
camera      street views, views from above, the sun    visibility    the exact z-buffer
materials, facade   what surfaces look like            render        (world, camera, light) -> image, labels
town        which place, light and camera a scene has  write         the dataset of scenes on disk
pairs       a place from above and from the street     write_pairs   the dataset of pairs on disk
panorama    all around in one picture
"""

from pipelines.data.toy.pairs import ToyPlace, draw_place
from pipelines.data.toy.solids import SCHEMA
from pipelines.data.toy.town import ToyScene, draw_scene
from pipelines.data.toy.write import write_town
from pipelines.data.toy.write_pairs import write_pairs

__all__ = ["SCHEMA", "ToyPlace", "ToyScene", "draw_place", "draw_scene", "write_pairs", "write_town"]
