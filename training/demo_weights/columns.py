"""Columns of the two float32 tables that describe a batch of scenes, shared by both renderers.

Lengths are in metres, colours are linear RGB, y points up, and the camera looks along +z before it is turned.
"""

from typing import Final

# Table of primitives, (B, N, PRIMITIVE_COLUMNS). A primitive is a unit shape behind an affine map.

CENTRE: Final = 0
"""3 columns: centre in the world."""

TO_LOCAL: Final = 3
"""9 columns, row-major: world offset from the centre to the frame in which the shape is a unit shape."""

KIND: Final = 12
"""One of `BOX`, `ELLIPSOID`, `CYLINDER`, `CONE`."""

CUT: Final = 13
"""Noise below this value is a hole; 0 is solid. Leafy crowns and torn edges."""

CUT_FREQUENCY: Final = 14
"""Lattice cells of the hole noise per metre."""

RADIUS: Final = 15
"""Radius of the bounding sphere."""

COLOUR_A: Final = 16
"""3 columns: first albedo of the texture."""

COLOUR_B: Final = 19
"""3 columns: second albedo of the texture."""

TEXTURE: Final = 22
"""One of the `TEXTURE_*` values."""

TEXTURE_FREQUENCY: Final = 23
"""Cells per metre."""

BUMP: Final = 24
"""Strength of the normal's disturbance."""

GLOSS: Final = 25
"""Strength of the highlight."""

EMISSION: Final = 26
"""Radiance given off, as a multiple of the albedo."""

SEED: Final = 27
"""Integer that sets textures of equal kind apart."""

HALF_SIZE: Final = 28
"""3 columns: half extents along the local axes."""

CONTRAST: Final = 31
"""How far the texture moves from the first to the second albedo."""

PRIMITIVE_COLUMNS: Final = 32

BOX: Final = 0
ELLIPSOID: Final = 1
CYLINDER: Final = 2
"""Axis along local y."""
CONE: Final = 3
"""Apex at local y = 1, base at y = -1."""

TEXTURE_FBM: Final = 0
"""Fractal noise: plaster, grass, rock, foliage."""
TEXTURE_TILES: Final = 1
"""Squares with joints."""
TEXTURE_BRICKS: Final = 2
"""Running bond."""
TEXTURE_PLANKS: Final = 3
"""Parallel strips of varying tone."""
TEXTURE_WINDOWS: Final = 4
"""A façade: dark panes, a few of them lit."""
TEXTURE_PATCHES: Final = 5
"""Large soft patches, as on pictures, posters and cloth."""

# Table of scenes, (B, SCENE_COLUMNS).

COUNT: Final = 0
"""Number of primitives in use; they come first."""

TANGENT: Final = 1
"""Tangent of half the field of view over the shorter side of the image."""

PRINCIPAL: Final = 2
"""2 columns: shift of the principal point in units of half the shorter side."""

ROTATION: Final = 4
"""9 columns, row-major: camera to world."""

EYE: Final = 13
"""3 columns: position of the camera."""

LIGHT: Final = 16
"""3 columns: unit vector towards the sun, or position of the lamp."""

LAMP: Final = 19
"""1 where the light is a lamp, 0 where it is the sun."""

LIGHT_COLOUR: Final = 20
"""3 columns."""

AMBIENT_UP: Final = 23
"""3 columns: light from above."""

AMBIENT_DOWN: Final = 26
"""3 columns: light from below."""

ZENITH: Final = 29
"""3 columns: sky overhead."""

HORIZON: Final = 32
"""3 columns: sky at the horizon; haze has the same colour."""

CLOUDS: Final = 35
"""Share of the sky under clouds, 0 to 1."""

HAZE: Final = 36
"""Extinction per metre."""

SOFTNESS: Final = 37
"""Radius of the light's disc as a tangent: width of the half-shadow."""

OCCLUSION_RANGE: Final = 38
"""Reach of ambient occlusion in metres; 0 switches it off."""

MIRROR: Final = 39
"""Reflectance of the first primitive, the ground: water, wet asphalt, polished floors."""

RIPPLE: Final = 40
"""Disturbance of the mirror's normal."""

SCENE_SEED: Final = 41
"""Integer seed of clouds and of per-pixel jitter."""

LAMP_REACH: Final = 42
"""Distance at which a lamp's light has fallen to a half."""

SCENE_COLUMNS: Final = 44
"""One more than in use: rows of 176 bytes keep slices of the table aligned to 16, as the kernel is compiled for."""

NEAREST: Final = 0.02
"""Hits nearer than this are ignored."""

FARTHEST: Final = 1.0e4
"""A ray that meets nothing within this distance sees the sky, whose inverse depth is 0."""

TILE: Final = 16
"""Side in pixels of what one program of the kernel renders."""
