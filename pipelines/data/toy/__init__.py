"""The toy town: procedural street scenes with exact labels, a dataset to start from on any machine.

solids      polygons and ellipsoids, the classes       dice, noise   random draws and textures
world       a place, of styles, buildings and props    light         time of day, sky
camera      street views, views from above, the sun    visibility    the exact z-buffer
materials, facade   what surfaces look like            render        (world, camera, light) -> image, labels
town        which place, light and camera a scene has  write         the dataset on disk
"""

from pipelines.data.toy.solids import SCHEMA
from pipelines.data.toy.town import ToyScene, draw_scene
from pipelines.data.toy.write import write_town

__all__ = ["SCHEMA", "ToyScene", "draw_scene", "write_town"]
