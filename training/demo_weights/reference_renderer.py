"""The renderer in plain torch: slow, on any device, and what the Triton kernel is compared with.

Rays are traced analytically against affinely mapped unit shapes, lit by one light with soft shadows, an ambient term
with occlusion and one mirror bounce off the ground. Vectors are triples of tensors of one shape, (B, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.demo_weights import columns as col

Vector = tuple[Tensor, Tensor, Tensor]

MISS = 2.0 * col.FARTHEST
"""Distance of a ray that meets nothing."""

TINY = 1.0e-7
"""Replaces zero denominators."""


def dot(a: Vector, b: Vector) -> Tensor:
    """Inner product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def along(origin: Vector, direction: Vector, t: Tensor) -> Vector:
    """Point at distance `t` on a ray."""
    return tuple(o + t * d for o, d in zip(origin, direction, strict=True))  # type: ignore[return-value]  # three


def unit(v: Vector) -> Vector:
    """Scale to length one."""
    scale = torch.rsqrt(dot(v, v).clamp(min=1e-20))
    return v[0] * scale, v[1] * scale, v[2] * scale


def nonzero(v: Tensor) -> Tensor:
    """Keep denominators away from zero, sign kept."""
    return torch.where(v.abs() < TINY, torch.full_like(v, TINY), v)


def triple(table: Tensor, column: int) -> Vector:
    """Three neighbouring columns of a table as a vector."""
    return table[..., column], table[..., column + 1], table[..., column + 2]


def lattice_hash(x: Tensor, y: Tensor, z: Tensor, seed: Tensor) -> Tensor:
    """Hash integers to [0, 1) with 32-bit wrap-around arithmetic (multiply and xor-shift)."""
    mask = 0xFFFFFFFF
    h = ((x.long() * 73856093) ^ (y.long() * 19349663) ^ (z.long() * 83492791) ^ (seed.long() * 26544357)) & mask
    h = ((h ^ (h >> 15)) * 739982445) & mask
    h = ((h ^ (h >> 12)) * 695872825) & mask
    h = h ^ (h >> 15)
    return (h & 0xFFFFFF).float() * (1.0 / 16777216.0)


def noise(p: Vector, seed: Tensor) -> Tensor:
    """Value noise: hashed lattice values, smoothly interpolated; in [0, 1)."""
    cells = [torch.floor(c) for c in p]
    fx, fy, fz = ((c - f) * (c - f) * (3 - 2 * (c - f)) for c, f in zip(p, cells, strict=True))
    x, y, z = (c.int() for c in cells)

    def row(dy: int, dz: int) -> Tensor:
        low = lattice_hash(x, y + dy, z + dz, seed)
        return low + fx * (lattice_hash(x + 1, y + dy, z + dz, seed) - low)

    near = row(0, 0) + fy * (row(1, 0) - row(0, 0))
    far = row(0, 1) + fy * (row(1, 1) - row(0, 1))
    return near + fz * (far - near)


def scaled(p: Vector, factor: Tensor | float) -> Vector:
    """Scale a vector."""
    return p[0] * factor, p[1] * factor, p[2] * factor


def to_local(row: Tensor, v: Vector) -> Vector:
    """Apply a primitive's linear map to an offset or a direction."""
    m = col.TO_LOCAL
    return (
        row[..., m] * v[0] + row[..., m + 1] * v[1] + row[..., m + 2] * v[2],
        row[..., m + 3] * v[0] + row[..., m + 4] * v[1] + row[..., m + 5] * v[2],
        row[..., m + 6] * v[0] + row[..., m + 7] * v[1] + row[..., m + 8] * v[2],
    )


def _slab(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1.0 / nonzero(d)
    t1, t2 = (-1 - o) * inverse, (1 - o) * inverse
    return torch.minimum(t1, t2), torch.maximum(t1, t2)


def interval(kind: Tensor, o: Vector, d: Vector) -> tuple[Tensor, Tensor]:
    """Where a ray is inside a convex unit shape.

    Args:
        kind: Shape of the primitive, broadcast over the rays.
        o: Origin in the local frame.
        d: Direction in the local frame, any length.

    Returns:
        Entry and exit as multiples of `d`; entry >= exit is a miss.
    """
    nx, fx = _slab(o[0], d[0])
    ny, fy = _slab(o[1], d[1])
    nz, fz = _slab(o[2], d[2])
    round_y = (kind == col.ELLIPSOID).float()
    slope = (kind == col.CONE).float() * 0.5
    # The radius of the side at the ray's origin: a cone's shrinks by `slope` per unit of y.
    radius = torch.where(kind == col.CONE, 0.5 * (1.0 - o[1]), torch.ones_like(o[1]))
    a = d[0] * d[0] + d[2] * d[2] + (round_y - slope * slope) * d[1] * d[1]
    b = o[0] * d[0] + o[2] * d[2] + round_y * o[1] * d[1] + slope * radius * d[1]
    c = o[0] * o[0] + o[2] * o[2] + round_y * o[1] * o[1] - radius * radius
    a = nonzero(a)
    disc = b * b - a * c
    root = torch.sqrt(disc.clamp(min=0))
    r1, r2 = (-b - root) / a, (-b + root) / a
    low, high = torch.minimum(r1, r2), torch.maximum(r1, r2)
    # Within a steep ray's double cone the inside is outside the roots; the lower nappe lies on one side of them.
    steep = a < 0
    down = d[1] < 0
    near = torch.where(steep, torch.where(down, high, torch.full_like(low, -MISS)), low)
    far = torch.where(steep, torch.where(down, torch.full_like(low, MISS), low), high)
    missed = (disc <= 0) & ~steep
    far = torch.where(missed, near - 1, far)
    capped_near = torch.where(kind == col.ELLIPSOID, near, torch.maximum(near, ny))
    capped_far = torch.where(kind == col.ELLIPSOID, far, torch.minimum(far, fy))
    is_box = kind == col.BOX
    return (
        torch.where(is_box, torch.maximum(torch.maximum(nx, ny), nz), capped_near),
        torch.where(is_box, torch.minimum(torch.minimum(fx, fy), fz), capped_far),
    )


def first_hit(row: Tensor, origin: Vector, direction: Vector) -> Tensor:
    """Distance to the first solid point of one primitive per scene, or `MISS`.

    Args:
        row: (B, 1, 1, PRIMITIVE_COLUMNS).
        origin: World, broadcast over the rays.
        direction: World, unit length.

    Returns:
        (B, H, W).
    """
    offset = tuple(o - c for o, c in zip(origin, triple(row, col.CENTRE), strict=True))
    near, far = interval(row[..., col.KIND], to_local(row, offset), to_local(row, direction))  # type: ignore[arg-type]  # three
    hit = near < far
    cut, seed = row[..., col.CUT], row[..., col.SEED]

    def solid(t: Tensor) -> Tensor:
        p = scaled(along(origin, direction, t.clamp(-MISS, MISS)), row[..., col.CUT_FREQUENCY])
        return (cut <= 0) | (noise(p, seed) >= cut)

    entry = hit & (near > col.NEAREST) & solid(near)
    # Only what has holes is seen from the inside.
    leave = hit & (far > col.NEAREST) & (cut > 0) & solid(far)
    return torch.where(entry, near, torch.where(leave, far, torch.full_like(near, MISS)))


def trace(primitives: Tensor, origin: Vector, direction: Vector) -> tuple[Tensor, Tensor]:
    """Find the nearest primitive.

    Args:
        primitives: (B, N, PRIMITIVE_COLUMNS); rows after a scene's count have no extent and are never hit.
        origin: World.
        direction: World, unit length.

    Returns:
        Distance, `MISS` for the sky, and index of the primitive, both (B, H, W).
    """
    distance = torch.full_like(direction[0], MISS)
    index = torch.zeros_like(distance, dtype=torch.long)
    for k in range(primitives.shape[1]):
        t = first_hit(primitives[:, k, None, None, :], origin, direction)
        nearer = t < distance
        distance = torch.where(nearer, t, distance)
        index = torch.where(nearer, torch.full_like(index, k), index)
    return distance, index


def transmitted(primitives: Tensor, origin: Vector, direction: Vector, reach: Tensor) -> Tensor:
    """Tell where nothing lies between a point and `reach` metres along a direction: 1 free, 0 blocked."""
    free = torch.ones_like(direction[0])
    for k in range(primitives.shape[1]):
        t = first_hit(primitives[:, k, None, None, :], origin, direction)
        free = torch.where(t < reach, torch.zeros_like(free), free)
    return free


def gather(primitives: Tensor, index: Tensor) -> Tensor:
    """Rows of the primitives that were hit, (B, H, W, PRIMITIVE_COLUMNS)."""
    batch = torch.arange(primitives.shape[0], device=primitives.device)[:, None, None]
    return primitives[batch, index]


def surface(row: Tensor, point: Vector) -> tuple[Vector, Vector, Tensor]:
    """Describe a point on a primitive.

    Returns:
        The world normal, outward; the point in the local frame in metres; and the local axis (0, 1, 2) that the
        normal is closest to.
    """
    offset = tuple(p - c for p, c in zip(point, triple(row, col.CENTRE), strict=True))
    x, y, z = to_local(row, offset)  # type: ignore[arg-type]  # three
    kind = row[..., col.KIND]
    zero = torch.zeros_like(x)
    side = torch.sqrt(x * x + z * z)
    ax, ay, az = x.abs(), y.abs(), z.abs()
    box_x, box_y = (ax >= ay) & (ax >= az), (ay > ax) & (ay >= az)
    cap = ((kind == col.CYLINDER) & (ay > side)) | ((kind == col.CONE) & (y < -0.999))
    is_box = kind == col.BOX
    nx = torch.where(is_box, torch.where(box_x, torch.sign(x), zero), torch.where(cap, zero, x))
    nz = torch.where(is_box, torch.where(box_x | box_y, zero, torch.sign(z)), torch.where(cap, zero, z))
    slope_y = torch.where(kind == col.ELLIPSOID, y, torch.where(kind == col.CONE, 0.25 * (1 - y), zero))
    ny = torch.where(is_box, torch.where(box_y, torch.sign(y), zero), torch.where(cap, torch.sign(y), slope_y))
    axis = torch.where(nx.abs() > torch.maximum(ny.abs(), nz.abs()), 0, torch.where(ny.abs() > nz.abs(), 1, 2))
    m = col.TO_LOCAL
    normal = unit(
        (
            row[..., m] * nx + row[..., m + 3] * ny + row[..., m + 6] * nz,
            row[..., m + 1] * nx + row[..., m + 4] * ny + row[..., m + 7] * nz,
            row[..., m + 2] * nx + row[..., m + 5] * ny + row[..., m + 8] * nz,
        )
    )
    hx, hy, hz = triple(row, col.HALF_SIZE)
    return normal, (x * hx, y * hy, z * hz), axis


def texture(row: Tensor, metres: Vector, axis: Tensor, footprint: Tensor) -> Tensor:
    """Weight of the second albedo, in [0, 1].

    Args:
        row: Rows of the primitives that were hit.
        metres: Point in the local frame.
        axis: Local axis of the normal; the pattern lies in the plane of the other two.
        footprint: Metres that a pixel covers; fine patterns fade to their mean, as a lens and a sensor make them.
    """
    kind, frequency, seed = row[..., col.TEXTURE], row[..., col.TEXTURE_FREQUENCY], row[..., col.SEED]
    q = scaled(metres, frequency)
    u = torch.where(axis == 0, q[2], q[0])
    v = torch.where(axis == 1, q[2], q[1])
    zero = torch.zeros_like(u)
    brick_row = torch.floor(v * 2)
    shift = 0.5 * (brick_row - 2 * torch.floor(brick_row * 0.5))
    is_brick = kind == col.TEXTURE_BRICKS
    is_plank = kind == col.TEXTURE_PLANKS
    u = torch.where(is_brick, u + shift, u)
    v = torch.where(is_brick, v * 2, torch.where(is_plank, v * 0.11, v))
    cell_u, cell_v = torch.floor(u), torch.floor(v)
    fu, fv = u - cell_u, v - cell_v
    tone = lattice_hash(cell_u.int(), cell_v.int(), zero.int(), seed)
    edge = torch.minimum(torch.minimum(fu, 1 - fu), torch.where(is_plank, fu, torch.minimum(fv, 1 - fv)))
    joint = edge < torch.where(is_plank, 0.02, 0.045)
    fine = noise(q, seed)
    rough = noise(scaled(q, 2.17), seed + 1)
    rougher = noise(scaled(q, 4.9), seed + 2)
    fbm = 0.5 * fine + 0.3 * rough + 0.2 * rougher
    fbm = (1.6 * fbm - 0.3).clamp(0, 1)
    checker = (cell_u + cell_v) - 2 * torch.floor((cell_u + cell_v) * 0.5)
    chequered = (seed.int() & 3) == 0
    tiles = torch.where(joint, torch.ones_like(tone), torch.where(chequered, checker * 0.8, tone * 0.45))
    planks = torch.where(joint, torch.ones_like(tone), 0.75 * tone + 0.25 * rougher)
    pane = (fu > 0.22) & (fu < 0.78) & (fv > 0.2) & (fv < 0.82)
    windows = torch.where(pane, 0.8 + 0.2 * (tone > 0.2).float(), 0.12 * rough)
    patches = ((noise(scaled(q, 0.7), seed + 3) - 0.42) * 7).clamp(0, 1) * 0.8 + 0.2 * rough
    weight = torch.where(kind == col.TEXTURE_TILES, tiles, fbm)
    weight = torch.where(is_brick, torch.where(joint, torch.ones_like(tone), 0.6 * tone + 0.1 * rough), weight)
    weight = torch.where(is_plank, planks, weight)
    weight = torch.where(kind == col.TEXTURE_WINDOWS, windows, weight)
    weight = torch.where(kind == col.TEXTURE_PATCHES, patches, weight)
    blur = footprint * frequency * 1.5
    return 0.4 + (weight - 0.4) / (1 + blur * blur)


def albedo(row: Tensor, metres: Vector, axis: Tensor, footprint: Tensor) -> Vector:
    """Diffuse reflectance of a point, weathered by broad noise."""
    weight = texture(row, metres, axis, footprint) * row[..., col.CONTRAST]
    broad = noise(scaled(metres, row[..., col.TEXTURE_FREQUENCY] * 0.23), row[..., col.SEED] + 5)
    wear = 0.7 + 0.6 * broad
    first, second = triple(row, col.COLOUR_A), triple(row, col.COLOUR_B)
    return tuple(((a + (b - a) * weight) * wear).clamp(0, 1) for a, b in zip(first, second, strict=True))  # type: ignore[return-value]  # three


def bumped(row: Tensor, metres: Vector, normal: Vector, footprint: Tensor) -> Vector:
    """Tilt a normal by the gradient of noise, less where a pixel covers many bumps."""
    p = scaled(metres, row[..., col.TEXTURE_FREQUENCY] * 2.0)
    seed = row[..., col.SEED] + 7
    here = noise(p, seed)
    blur = footprint * row[..., col.TEXTURE_FREQUENCY] * 3.0
    strength = row[..., col.BUMP] * 3.0 / (1 + blur * blur)
    step = 0.2
    gradient = (
        noise((p[0] + step, p[1], p[2]), seed) - here,
        noise((p[0], p[1] + step, p[2]), seed) - here,
        noise((p[0], p[1], p[2] + step), seed) - here,
    )
    tilt = dot(gradient, normal)
    return unit(tuple(n - strength * (g - tilt * n) for n, g in zip(normal, gradient, strict=True)))  # type: ignore[arg-type]  # three


def sky(scene: Tensor, direction: Vector) -> Vector:
    """Radiance of the sky: gradient, clouds in a flat layer, glow around the sun."""
    height = direction[1].clamp(0.0, 1.0)
    gradient = 1 - torch.exp(-3.0 * height)
    layer = 1.0 / (height + 0.12)
    p = (direction[0] * layer * 1.1, torch.zeros_like(layer), direction[2] * layer * 1.1)
    seed = scene[..., col.SCENE_SEED]
    density = 0.55 * noise(p, seed) + 0.3 * noise(scaled(p, 2.3), seed + 1) + 0.15 * noise(scaled(p, 5.1), seed + 2)
    cover = scene[..., col.CLOUDS]
    cloud = ((density - 1 + cover) * 4).clamp(0, 1) * (height * 6).clamp(0, 1)
    bright = 0.55 + 0.9 * (density - 0.3)
    sun = dot(direction, triple(scene, col.LIGHT)).clamp(0, 1) * (1 - scene[..., col.LAMP])
    glow = sun.clamp(min=1e-4) ** 32 * 0.35 * (1 - cloud)
    zenith, horizon, light = triple(scene, col.ZENITH), triple(scene, col.HORIZON), triple(scene, col.LIGHT_COLOUR)
    out = []
    for top, low, tint in zip(zenith, horizon, light, strict=True):
        clear = low + (top - low) * gradient
        white = (0.3 * low + 0.7 * low.clamp(min=0.5)) * bright * 1.35
        out.append(clear + (white - clear) * cloud + glow * tint)
    return out[0], out[1], out[2]


def jitter(pixel: Tensor, scene: Tensor, salt: int) -> Vector:
    """A direction inside a cube for each pixel, by hashing."""
    seed = scene[..., col.SCENE_SEED] + salt
    zero = torch.zeros_like(pixel)
    return (
        2 * lattice_hash(pixel, zero, zero, seed) - 1,
        2 * lattice_hash(pixel, zero + 1, zero, seed) - 1,
        2 * lattice_hash(pixel, zero + 2, zero, seed) - 1,
    )


def towards_light(scene: Tensor, point: Vector) -> tuple[Vector, Tensor, Tensor]:
    """Direction to the light, distance to it, and how much of it arrives there, without shadows."""
    light = triple(scene, col.LIGHT)
    lamp = scene[..., col.LAMP] > 0
    offset = tuple(a - b for a, b in zip(light, point, strict=True))
    length = torch.sqrt(dot(offset, offset).clamp(min=1e-6))  # type: ignore[arg-type]  # three
    direction = tuple(torch.where(lamp, o / length, a) for o, a in zip(offset, light, strict=True))
    reach = torch.where(lamp, length, torch.full_like(length, col.FARTHEST))
    ratio = length / scene[..., col.LAMP_REACH]
    fall_off = torch.where(lamp, 2.0 / (1 + ratio * ratio), torch.ones_like(length))
    return direction, reach, fall_off  # type: ignore[return-value]  # three


def ambient(scene: Tensor, normal: Vector) -> Vector:
    """Light from the hemispheres above and below."""
    upward = 0.5 + 0.5 * normal[1]
    up, down = triple(scene, col.AMBIENT_UP), triple(scene, col.AMBIENT_DOWN)
    return tuple(b + (a - b) * upward for a, b in zip(up, down, strict=True))  # type: ignore[return-value]  # three


def facing(normal: Vector, direction: Vector) -> Vector:
    """Turn a normal towards the viewer."""
    sign = torch.where(dot(normal, direction) > 0, -1.0, 1.0)
    return scaled(normal, sign)


def reflected(primitives: Tensor, scene: Tensor, origin: Vector, direction: Vector) -> Vector:
    """Radiance along a mirrored ray, lit without shadows."""
    distance, index = trace(primitives, origin, direction)
    row = gather(primitives, index)
    point = along(origin, direction, distance)
    normal, metres, axis = surface(row, point)
    normal = facing(normal, direction)
    colour = albedo(row, metres, axis, distance * 0.01)
    to_light, _, fall_off = towards_light(scene, point)
    lit = dot(normal, to_light).clamp(min=0) * fall_off * 0.7
    fill, light, heaven = ambient(scene, normal), triple(scene, col.LIGHT_COLOUR), sky(scene, direction)
    missed = distance >= col.FARTHEST
    return tuple(  # type: ignore[return-value]  # three
        torch.where(missed, heaven[i], colour[i] * (fill[i] + light[i] * lit)) for i in range(3)
    )


def camera_rays(scene: Tensor, height: int, width: int) -> tuple[Vector, Tensor, Tensor]:
    """Directions through the centres of the pixels.

    Args:
        scene: (B, 1, 1, SCENE_COLUMNS).
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        Unit directions in the world; the cosine to the optical axis, (B, H, W); the index of each pixel, (1, H, W).
    """
    device = scene.device
    short = float(min(height, width))
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    u = (2 * (x + 0.5) - width) / short + scene[..., col.PRINCIPAL]
    v = (height - 2 * (y + 0.5)) / short + scene[..., col.PRINCIPAL + 1]
    u, v = u * scene[..., col.TANGENT], v * scene[..., col.TANGENT]
    cosine = torch.rsqrt(u * u + v * v + 1)
    r = col.ROTATION
    direction = (
        (scene[..., r] * u + scene[..., r + 1] * v + scene[..., r + 2]) * cosine,
        (scene[..., r + 3] * u + scene[..., r + 4] * v + scene[..., r + 5]) * cosine,
        (scene[..., r + 6] * u + scene[..., r + 7] * v + scene[..., r + 8]) * cosine,
    )
    return direction, cosine, (y * width + x)[None]


def render(primitives: Tensor, scenes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Render a batch of scenes.

    Args:
        primitives: (B, N, PRIMITIVE_COLUMNS) float32.
        scenes: (B, SCENE_COLUMNS) float32.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        Linear radiance, (B, 3, H, W), unbounded above; and inverse depth along the optical axis in 1/m, (B, H, W),
        0 for the sky.
    """
    scene = scenes[:, None, None, :]
    direction, cosine, pixel = camera_rays(scene, height, width)
    pixel = pixel.expand_as(cosine)
    eye: Vector = tuple(e.expand_as(cosine) for e in triple(scene, col.EYE))  # type: ignore[assignment]  # three
    distance, index = trace(primitives, eye, direction)
    row = gather(primitives, index)
    point = along(eye, direction, distance)
    normal, metres, axis = surface(row, point)
    footprint = distance * scene[..., col.TANGENT] * (2.0 / min(height, width))
    flat_normal = facing(normal, direction)
    normal = facing(bumped(row, metres, normal, footprint), direction)
    colour = albedo(row, metres, axis, footprint)
    start = along(point, flat_normal, 0.002 * distance + 0.001)

    to_light, reach, fall_off = towards_light(scene, point)
    softness = scene[..., col.SOFTNESS]
    wobble = jitter(pixel, scene, 11)
    shadow_ray = unit(tuple(a + softness * b for a, b in zip(to_light, wobble, strict=True)))  # type: ignore[arg-type]  # three
    lit = dot(normal, to_light).clamp(min=0) * fall_off * transmitted(primitives, start, shadow_ray, reach)

    wobble = unit(jitter(pixel, scene, 23))
    probe = unit(tuple(a + 0.95 * b for a, b in zip(flat_normal, wobble, strict=True)))  # type: ignore[arg-type]  # three
    free = transmitted(primitives, start, probe, scene[..., col.OCCLUSION_RANGE])
    fill = scaled(ambient(scene, normal), 0.25 + 0.75 * free)

    halfway = unit(tuple(a - b for a, b in zip(to_light, direction, strict=True)))  # type: ignore[arg-type]  # three
    shine = dot(normal, halfway).clamp(min=1e-4) ** 40 * row[..., col.GLOSS] * lit
    light = triple(scene, col.LIGHT_COLOUR)
    radiance = [colour[i] * (fill[i] + light[i] * lit + row[..., col.EMISSION]) + shine * light[i] for i in range(3)]

    ripple = jitter_surface(scene, point)
    mirror_normal = unit((flat_normal[0] + ripple[0], flat_normal[1], flat_normal[2] + ripple[1]))
    bounce = 2 * dot(direction, mirror_normal)
    away = unit(tuple(d - bounce * n for d, n in zip(direction, mirror_normal, strict=True)))  # type: ignore[arg-type]  # three
    image = reflected(primitives, scene, start, away)
    grazing = 1 - dot(direction, flat_normal).abs()
    share = scene[..., col.MIRROR] * (0.15 + 0.85 * grazing * grazing) * (index == 0)
    radiance = [radiance[i] + (image[i] - radiance[i]) * share for i in range(3)]

    clear = torch.exp(-distance.clamp(max=2000.0) * scene[..., col.HAZE])
    horizon, heaven = triple(scene, col.HORIZON), sky(scene, direction)
    missed = distance >= col.FARTHEST
    out = [torch.where(missed, heaven[i], horizon[i] + (radiance[i] - horizon[i]) * clear) for i in range(3)]
    inverse = torch.where(missed, torch.zeros_like(distance), 1.0 / (distance * cosine))
    return torch.stack(out, 1), inverse


def jitter_surface(scene: Tensor, point: Vector) -> tuple[Tensor, Tensor]:
    """Slope of ripples on the mirror at a point of the ground."""
    seed = scene[..., col.SCENE_SEED] + 3
    p = (point[0] * 1.7, torch.zeros_like(point[0]), point[2] * 4.0)
    strength = scene[..., col.RIPPLE]
    first = noise(p, seed) + 0.5 * noise(scaled(p, 3.1), seed) - 0.75
    second = noise(p, seed + 1) + 0.5 * noise(scaled(p, 3.1), seed + 1) - 0.75
    return strength * first, strength * second
