import * as pc from "playcanvas";

const canvas = document.createElement("canvas");
document.body.append(canvas);
const app = new pc.Application(canvas, { graphicsDeviceOptions: { preserveDrawingBuffer: true } });
app.setCanvasResolution(pc.RESOLUTION_FIXED, SIZE, SIZE);
app.start();
app.scene.gsplat.antiAlias = ANTIALIASED;
const camera = new pc.Entity();
camera.addComponent("camera", { fov: FOV_DEG, clearColor: new pc.Color(0, 0, 0) });
camera.setPosition(...EYE);
camera.lookAt(0, 0, 0);
app.root.addChild(camera);
const kind = FILE.endsWith(".glb") ? "container" : "gsplat";
app.assets.loadFromUrl(FILE, kind, (error, asset) => {
  if (error) throw new Error(error);
  const entity = kind === "container" ? asset.resource.instantiateRenderEntity() : new pc.Entity();
  if (kind === "gsplat") entity.addComponent("gsplat", { asset });
  app.root.addChild(entity);
  let frames = 0;
  app.on("frameend", () => {
    window.frames_drawn = ++frames;
  });
});
